"""`ulmfit-fast convert`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli.options import complete_files, convert_options
from ulmfit_fast.cli.values import terminal_of


@click.command()
@click.argument("source", shell_complete=complete_files)
@click.argument("target", type=click.Path(path_type=Path))
@convert_options
def convert(**values: Any) -> None:
    """Convert a model of fastai's to ours, or ours to fastai's.

    SOURCE is a .pth, .h5 or .tgz of fastai 0.7, v1 or v2 (file, folder or address), or a model
    folder, which becomes TARGET.pth and TARGET_vocab.pkl. Nothing in a file is run.

    Example: ulmfit-fast convert wt103-fwd.tgz general
    """  # fmt: skip
    from ulmfit_fast.commands.convert import ConvertOptions, convert

    terminal = terminal_of(values)
    convert(ConvertOptions(**values), terminal)
