"""`ulmfit-fast inspect`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import (
    debug_option,
    device_option,
    encoding_option,
    json_option,
    model_argument,
)
from ulmfit_fast.cli.values import terminal_of


@click.command()
@model_argument
@click.argument("text", metavar="TEXT|-")
@click.option("--label", metavar="NAME", help="Class to explain. Default: the most probable.")
@click.option(
    "--method", type=click.Choice(["integrated_gradients", "gradient_x_input"]),
    default="integrated_gradients", show_default=True,
    help="gradient_x_input is some twenty times cheaper, and only a first guess.",
)  # fmt: skip
@click.option("--words", "n_words", type=click.IntRange(min=1), default=8, show_default=True,
              help="Strongest words for and against the class to list.")  # fmt: skip
@encoding_option
@device_option
@json_option
@debug_option
def inspect(**values: Any) -> None:
    """Show which words of a text speak for its class, and which against it.

    MODEL is the folder of a run or its model folder. With - every line of standard input is a text.
    Scores are parts of the log-odds of the class, log p - log(1 - p), by which the text differs
    from one whose words are all dropped.

    Example: ulmfit-fast inspect runs/reviews "A film without a dull minute."
    """  # fmt: skip
    from ulmfit_fast.commands.inspect import InspectOptions, inspect

    terminal = terminal_of(values)
    inspect(InspectOptions(**values), terminal)
