"""`ulmfit-fast predict`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli.options import (
    complete_files,
    debug_option,
    json_option,
    model_argument,
    overwrite_option,
    reading_options,
)
from ulmfit_fast.cli.values import terminal_of


@click.command()
@model_argument
@click.argument("source", metavar="FILE|-", shell_complete=complete_files)
@reading_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV to write. Default: standard output, with control characters escaped.",
)
@overwrite_option
@json_option
@debug_option
def predict(**values: Any) -> None:
    """Classify the texts of a file, or the lines of standard input with -.

    MODEL is the folder of a run or its model folder. Writes CSV: row, label, probability, the
    probability of every class, text. Row is the line of the file, of a text that spans several its
    first; of parquet, json and the Hub the number of the record. Rows without text are left out.

    Example: ulmfit-fast predict runs/reviews new.csv --out answers.csv
    """  # fmt: skip
    from ulmfit_fast.commands.apply import ApplyOptions, predict

    terminal = terminal_of(values)
    predict(ApplyOptions(**values), terminal)
