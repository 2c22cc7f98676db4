"""`ulmfit-fast export`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import export_options, model_argument
from ulmfit_fast.cli.values import terminal_of


@click.command()
@model_argument
@export_options
def export(**values: Any) -> None:
    """Write MODEL as one file for onnxruntime or torch.export, or as a packed folder.

    MODEL is the folder of a run or its model folder. A file takes batches and texts of any
    length. It is written once it computes what the model computes.

    Example: ulmfit-fast export runs/reviews --out reviews.onnx
    """
    from ulmfit_fast.commands.export import ExportOptions, export

    terminal = terminal_of(values)
    export(ExportOptions(**values), terminal)
