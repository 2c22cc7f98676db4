"""The group of all verbs: loads a verb's file when it is called, and says errors in one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from ulmfit_fast.cli.options import DEBUG
from ulmfit_fast.commands.invocation import ARGUMENTS
from ulmfit_fast.errors import InputError, TrainingError, TrainingStopped

EXIT_INPUT, EXIT_TRAINING, EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 2, 1, 3, 130
EXIT_TIME_LIMIT = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
EXIT_PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended


def _printable(text: str) -> str:
    from ulmfit_fast.commands.terminal import printable

    return printable(text)


class _OneLine(click.ClickException):
    """An error whose message is the whole output, with exit status 2."""

    exit_code = EXIT_INPUT

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {_printable(self.format_message())}", err=True, file=file)


class _TrainingStopped(_OneLine):
    """Training that cannot go on, with exit status 1."""

    exit_code = EXIT_TRAINING


class Verbs(click.Group):
    """Verbs, each in a file of its own, whose exceptions meant for users become one line.

    Args:
        verbs: their names in the order of --help; the file of "lr-find" is cli/lr_find.py.
    """

    def __init__(self, *args: Any, verbs: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = list(verbs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names."""
        return self._verbs

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of a verb and return its command, or None if there is no such verb."""
        if cmd_name not in self._verbs:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"ulmfit_fast.cli.{name}"), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words of the command line, for the run's summary."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb, and say in one line what the user can mend."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else ctx.command_path
            message = f"{error.format_message()} (see {command} --help)"
            raise _OneLine(message) from error
        except BrokenPipeError:
            _let_go_of_standard_output()
            ctx.exit(EXIT_PIPE_CLOSED)
        except (InputError, TrainingError, OSError) as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            shown = _TrainingStopped if isinstance(error, TrainingError) else _OneLine
            raise shown(_message(error)) from error
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            raise _OneLine(
                "the memory of the GPU is full: train with a smaller --batch-size or --size, end "
                "what else runs on it, or give --device cpu"
            ) from error
        except TrainingStopped as stopped:
            click.echo(_printable(str(stopped)), err=True)
            ctx.exit(EXIT_TIME_LIMIT if stopped.signal is None else 128 + stopped.signal)
        except KeyboardInterrupt:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            click.echo("stopped", err=True)
            ctx.exit(EXIT_INTERRUPTED)


def _message(error: Exception) -> str:
    """Write an OSError as file: reason, everything else as it is."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell a GPU whose memory is full; torch is not imported where it has not been yet."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _let_go_of_standard_output() -> None:
    """Send what is still in the buffer nowhere: its reader, such as head, has what it wants."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
