"""`ulmfit-fast evaluate`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli.options import debug_option, json_option, label_column_option, reading_options
from ulmfit_fast.cli.values import terminal_of


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source", metavar="FILE")
@label_column_option
@reading_options
@json_option
@debug_option
def evaluate(**values: Any) -> None:
    """Measure a classifier on a table of texts and labels."""
    from ulmfit_fast.commands.apply import ApplyOptions, evaluate

    terminal = terminal_of(values)
    evaluate(ApplyOptions(**values), terminal)
