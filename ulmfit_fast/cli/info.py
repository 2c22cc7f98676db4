"""`ulmfit-fast info`: its options."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli.options import complete_models, debug_option, json_option


@click.command()
@click.argument(
    "model", type=click.Path(path_type=Path), required=False, shell_complete=complete_models
)
@json_option
@debug_option
def info(model: Path | None, as_json: bool) -> None:
    """Show this installation and its kernels, or what MODEL is.

    MODEL is the folder of a run or a model folder: its size, classes, recipe and precision.

    Example: ulmfit-fast info runs/reviews
    """
    from ulmfit_fast.commands.info import say_environment, say_model
    from ulmfit_fast.commands.terminal import Terminal

    terminal = Terminal(as_json=as_json)
    if model is None:
        say_environment(terminal)
    else:
        say_model(model, terminal)
