"""`ulmfit-fast demo`: its options."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli.options import debug_option, json_option


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    metavar="DIR",
    help="An earlier demo there is replaced.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of everything random: the same seed gives the same figures.")  # fmt: skip
@click.option("--english", is_flag=True,
              help="Begin with the English model that comes with ulmfit_fast, in place of a stage "
              "1 on docstrings of other modules: worse on these texts.")  # fmt: skip
@json_option
@debug_option
def demo(out: Path, seed: int, english: bool, as_json: bool) -> None:
    """Show ULMFiT's stages on texts that are on this machine: no download, a few minutes.

    The texts are docstrings of the Python standard library, numpy and torch; the classes are the
    packages they come from, whose names are masked.

    Example: ulmfit-fast demo --out runs/demo
    """  # fmt: skip
    from ulmfit_fast.commands.terminal import Terminal
    from ulmfit_fast.demo import run_demo

    run_demo(out, seed, Terminal(as_json=as_json), from_scratch=not english)
