"""How the command line was called: what only click's context knows; click alone is imported."""

from __future__ import annotations

import shlex

import click

#: Keys of click's meta: whether tracebacks are shown, and the words of the command line.
DEBUG = "ulmfit_fast.debug"
ARGUMENTS = "ulmfit_fast.arguments"


def is_debugging() -> bool:
    """Say whether --debug was given; False outside of the command line."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(DEBUG))


def command_line() -> str | None:
    """Return the command as a shell takes it; None outside of the command line."""
    context = click.get_current_context(silent=True)
    arguments = context.meta.get(ARGUMENTS) if context else None
    return shlex.join(["ulmfit-fast", *arguments]) if arguments else None
