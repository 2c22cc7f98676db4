"""`ulmfit-fast bench`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli.options import debug_option, device_option, json_option
from ulmfit_fast.cli.values import terminal_of


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True,
    help="Time to take, about; less means smaller sizes.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Of the CPU.")
@click.option(
    "--only", multiple=True, metavar="NAME",
    help="lstm, optimizer, loss or language_model; may be repeated.",
)  # fmt: skip
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE",
    help="Picture to write: .svg, .png or .pdf.",
)  # fmt: skip
@device_option
@json_option
@debug_option
def bench(**values: Any) -> None:
    """Measure how fast this machine trains with ulmfit_fast and with torch, in about a minute.

    An LSTM layer with weight drop, the optimizer, the softmax's loss and a whole training step of a
    language model, in float32 and where the hardware has it bfloat16. Results are checked against
    float64 before anything is timed.

    Example: ulmfit-fast bench --plot speed.svg
    """
    from ulmfit_fast.commands.bench import BenchOptions, bench

    terminal = terminal_of(values)
    bench(BenchOptions(**values), terminal)
