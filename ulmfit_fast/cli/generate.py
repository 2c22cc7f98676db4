"""`ulmfit-fast generate`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import (
    debug_option,
    device_option,
    json_option,
    model_argument,
    precision_option,
)
from ulmfit_fast.cli.values import terminal_of

AT_LEAST_0, AT_LEAST_1 = click.IntRange(min=0), click.IntRange(min=1)
SHARE = click.FloatRange(min=0, max=1, min_open=True)


@click.command()
@model_argument
@click.argument("prompt", metavar="[PROMPT|-]", default="")
@click.option(
    "--tokens", "n_tokens", type=AT_LEAST_1, default=100, show_default=True,
    help="Most tokens of a text; it may end sooner.",
)  # fmt: skip
@click.option(
    "--samples", type=AT_LEAST_1, default=1, show_default=True, help="Texts for each prompt."
)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True,
    help="Below 1 keeps to what is probable; 0 always takes the most probable.",
)  # fmt: skip
@click.option(
    "--top-k", type=AT_LEAST_0, default=0, metavar="K",
    help="Draw from the K most probable tokens. Default: from all.",
)  # fmt: skip
@click.option(
    "--top-p", type=SHARE, default=1.0, metavar="P",
    help="Draw from the fewest tokens whose probabilities reach P together. Default: from all.",
)  # fmt: skip
@click.option("--seed", type=AT_LEAST_0, default=0, show_default=True)
@click.option("--unknown", is_flag=True, help="Allow xxunk, which stands for unknown words.")
@device_option
@precision_option
@json_option
@debug_option
def generate(**values: Any) -> None:
    """Write text with a language model, from PROMPT on or from the beginning of a text.

    MODEL is the folder of a run or its language_model folder. With - every line of standard input
    is a prompt. The same seed, model and prompt give the same text.

    Example: ulmfit-fast generate runs/reviews "This film" --temperature 0.8
    """
    from ulmfit_fast.commands.generate import GenerateOptions, generate

    terminal = terminal_of(values)
    generate(GenerateOptions(**values), terminal)
