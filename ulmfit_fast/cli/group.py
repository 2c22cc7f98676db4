"""The group of all verbs: loads a verb's file when it is called, and says errors in one line."""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from ulmfit_fast.cli.options import DEBUG
from ulmfit_fast.cli.status import (
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_TIME_LIMIT,
    EXIT_TRAINING,
    report_defect,
    say_warning,
)
from ulmfit_fast.commands.invocation import ARGUMENTS
from ulmfit_fast.errors import InputError, RankLostError, TrainingError, TrainingStopped
from ulmfit_fast.training import launch

#: Verbs that torchrun may start in several processes.
_SHARED = ("train", "pretrain")
#: The last paragraph of a verb's docstring.
_EXAMPLE = re.compile(r"\s*\bExample:\s*(ulmfit-fast\b.*)\Z", re.DOTALL)
#: What click says of numbers, in words for people.
_PLAIN_WORDS = (
    (re.compile(r"is not a valid (integer|int) range"), "is not a whole number"),
    (re.compile(r"is not a valid integer"), "is not a whole number"),
    (re.compile(r"is not a valid float range"), "is not a number"),
    (re.compile(r"is not in the range x>=(\S+?)\.?$"), r"is less than \1"),
)


def _printable(text: str) -> str:
    from ulmfit_fast.commands.terminal import printable

    return printable(text)


class _OneLine(click.ClickException):
    """An error whose message is the whole output, with exit status 2."""

    exit_code = EXIT_INPUT

    def show(self, file: Any = None) -> None:
        who = _speaker(self.__cause__)
        if who is not None:
            click.echo(f"error: {who}{_printable(self.format_message())}", err=True, file=file)


class _TrainingStopped(_OneLine):
    """Training that cannot go on, with exit status 1."""

    exit_code = EXIT_TRAINING


class Verbs(click.Group):
    """Verbs, each in a file of its own, whose exceptions meant for users become one line.

    Args:
        verbs: their names; the file of "lr-find" is cli/lr_find.py.
        sections: titles of --help, with the verbs under each; those in none come last.
    """

    def __init__(
        self,
        *args: Any,
        verbs: Sequence[str],
        sections: Mapping[str, Sequence[str]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = list(verbs)
        self._has_lost_a_rank = False
        self._sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names."""
        return self._verbs

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of a verb and return its command, or None if there is no such verb.

        The example at the end of its docstring becomes the last line of its --help.
        """
        if cmd_name not in self._verbs:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"ulmfit_fast.cli.{name}"), name)
        for option in command.params:
            if isinstance(option, click.Option) and option.metavar is None:
                option.metavar = _metavar_of(option.type)
        example = _EXAMPLE.search(command.help or "")
        if example is not None:
            command.help = (command.help or "")[: example.start()]
            command.epilog = f"\b\nExample: {' '.join(example.group(1).split())}"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb, and else name the nearest."""
        name = args[0]
        if name in self._verbs and name not in _SHARED and launch.world_size() > 1:
            raise click.UsageError(f"{name} is for one process: call it without torchrun", ctx)
        if name in self._verbs or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = get_close_matches(name.lower(), self._verbs, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(self._verbs)}"
        raise click.UsageError(f"no such verb '{name}': {hint}", ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words for the run's summary, and read the options before the verb."""
        ctx.meta[ARGUMENTS] = list(args)
        if not args:
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _OneLine(_usage_message(error, ctx)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs under their titles, each with its whole first sentence."""
        listed = {verb for verbs in self._sections.values() for verb in verbs}
        more = [verb for verb in self._verbs if verb not in listed]
        width = max(map(len, self._verbs))
        for title, verbs in {**self._sections, "More": more}.items():
            commands = [(verb, self.get_command(ctx, verb)) for verb in verbs]
            rows = [
                (verb.ljust(width), _first_sentence(c)) for verb, c in commands if c is not None
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:
        """Run the program; where it is the whole process, no traceback reaches its user."""
        if args is None:
            sys.excepthook = report_defect
            if "--debug" not in sys.argv:
                warnings.showwarning = say_warning
        try:
            return super().main(args, *rest, **kwargs)
        except SystemExit as leaving:
            if args is None and self._has_lost_a_rank:
                # Without taking process groups down, which waits for the process that is lost.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(leaving.code if isinstance(leaving.code, int) else EXIT_TRAINING)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb, and say in one line what the user can mend."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _OneLine(_usage_message(error, ctx)) from error
        except BrokenPipeError:
            _let_go_of_standard_output()
            ctx.exit(EXIT_PIPE_CLOSED)
        except (InputError, TrainingError, OSError) as error:
            self._has_lost_a_rank = isinstance(error, RankLostError)
            shown = _TrainingStopped if isinstance(error, TrainingError) else _OneLine
            raise _told(ctx, shown(_message(error))) from error
        except (RuntimeError, MemoryError) as error:
            advice = _advice_on_memory(error)
            if advice is None:
                raise
            raise _told(ctx, _OneLine(advice)) from error
        except ImportError as error:
            if "pip install" not in str(error):  # of our own extras, which say what to install
                raise
            raise _told(ctx, _OneLine(str(error))) from error
        except TrainingStopped as stopped:
            if launch.is_first():
                click.echo(_printable(str(stopped)), err=True)
            ctx.exit(EXIT_TIME_LIMIT if stopped.signal is None else 128 + stopped.signal)
        except KeyboardInterrupt:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            if launch.is_first():
                click.echo("stopped", err=True)
            ctx.exit(EXIT_INTERRUPTED)


def _speaker(error: BaseException | None) -> str | None:
    """Return what stands before an error's message; None where another process says it.

    Before they have joined, all processes of a training fail alike. From then on an error is said
    once, by who notices it first: the others have the same, or have lost that one.
    """
    if launch.world_size() == 1:
        return ""
    joining = sys.modules.get("ulmfit_fast.training.joining")
    joined = None if joining is None else joining.joined()
    if isinstance(error, RankLostError):
        return "" if joined is None or joined.is_first_to_say() else None
    if joined is None:
        return "" if launch.is_first() else None
    if not joined.is_first_to_say():
        return None
    return "" if launch.is_first() else f"rank {launch.rank()}: "


def _metavar_of(kind: click.ParamType[Any]) -> str | None:
    """Return a short name for a number, which click calls INTEGER RANGE; None for another kind."""
    if isinstance(kind, click.types.IntParamType):
        return "N"
    return "X" if isinstance(kind, click.types.FloatParamType) else None


def _told(ctx: click.Context, error: _OneLine) -> _OneLine:
    """Return an error to raise; with --debug the traceback of what is handled comes first."""
    if ctx.meta.get(DEBUG):
        traceback.print_exc()
    return error


def _first_sentence(command: click.Command) -> str:
    """Return the first sentence of a verb's help, without its full stop."""
    paragraph = " ".join((command.help or "").split("\n\n")[0].split())
    return re.split(r"\.(?:\s|$)", paragraph, maxsplit=1)[0]


def _usage_message(error: click.UsageError, ctx: click.Context) -> str:
    """Write what is wrong with a command line in one line."""
    command = error.ctx.command_path if error.ctx else ctx.command_path
    if isinstance(error, click.NoSuchOption):
        near = f": did you mean {error.possibilities[0]}?" if error.possibilities else ""
        message = f"no such option {error.option_name}{near}"
    else:
        # click lists choices with line ends and tabs.
        message = " ".join(error.format_message().split()).removesuffix(".")
        message = message[:1].lower() + message[1:]
        for pattern, words in _PLAIN_WORDS:
            message = pattern.sub(words, message)
    return f"{message} (see {command} --help)"


def _message(error: Exception) -> str:
    """Write an OSError as file: reason, everything else as it is."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error)


def _advice_on_memory(error: Exception) -> str | None:
    """Say what to do if memory is full, or None; torch is not imported where it has not been."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            "the memory of the GPU is full: train with a smaller --batch-size or --size, end "
            "what else runs on it, or give --device cpu"
        )
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return (
            "the memory of this machine is full: give a smaller --batch-size or --size, less text, "
            "or end what else runs on it"
        )
    return None


def _let_go_of_standard_output() -> None:
    """Send what is still in the buffer nowhere: its reader, such as head, has what it wants."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
