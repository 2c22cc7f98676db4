"""`ulmfit-fast doctor`: its options."""

from __future__ import annotations

import click

from ulmfit_fast.cli.options import debug_option, json_option
from ulmfit_fast.cli.status import EXIT_ENVIRONMENT


@click.command()
@json_option
@debug_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say whether the GPU is used, why not, and what else to mend on this machine.

    Exit status 0 if nothing is to be mended, else 3.

    Example: ulmfit-fast doctor
    """
    from ulmfit_fast.commands.doctor import say_diagnosis
    from ulmfit_fast.commands.terminal import Terminal

    if not say_diagnosis(Terminal(as_json=as_json)):
        ctx.exit(EXIT_ENVIRONMENT)
