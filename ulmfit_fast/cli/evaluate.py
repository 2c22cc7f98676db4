"""`ulmfit-fast evaluate`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import (
    complete_files,
    debug_option,
    json_option,
    label_column_option,
    model_argument,
    reading_options,
)
from ulmfit_fast.cli.values import terminal_of


@click.command()
@model_argument
@click.argument("source", metavar="FILE", shell_complete=complete_files)
@label_column_option
@reading_options
@json_option
@debug_option
def evaluate(**values: Any) -> None:
    """Measure a classifier on a table of texts and labels.

    MODEL is the folder of a run or its model folder. Says the share of wrong answers with its 95 %
    interval, precision, recall and F1 of every class, and what is mistaken for what.

    Example: ulmfit-fast evaluate runs/reviews test.csv
    """
    from ulmfit_fast.commands.apply import ApplyOptions, evaluate

    terminal = terminal_of(values)
    evaluate(ApplyOptions(**values), terminal)
