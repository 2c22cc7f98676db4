"""The command line `ulmfit-fast`: reads options, then imports what does the work.

Torch and the package are imported after the options are read, so that --help answers at once.
What the user can mend is one line on standard error and exit status 2: `error: ...`.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ulmfit_fast import __version__
from ulmfit_fast.commands.options import (
    DEBUG,
    convert_options,
    debug_option,
    export_options,
    json_option,
    label_column_option,
    overwrite_option,
    reading_options,
    run_options,
)
from ulmfit_fast.errors import InputError, TrainingError

if TYPE_CHECKING:
    from ulmfit_fast.commands.choices import Settings
    from ulmfit_fast.commands.data import Files
    from ulmfit_fast.commands.terminal import Terminal

EXIT_INPUT, EXIT_TRAINING, EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 2, 1, 3, 130
EXIT_PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended


class _OneLine(click.ClickException):
    """An error whose message is the whole output, with exit status 2."""

    exit_code = EXIT_INPUT

    def show(self, file: Any = None) -> None:
        from ulmfit_fast.commands.terminal import printable

        click.echo(f"error: {printable(self.format_message())}", err=True, file=file)


class _TrainingStopped(_OneLine):
    """Training that cannot go on, with exit status 1."""

    exit_code = EXIT_TRAINING


class _Group(click.Group):
    """A group of commands that turns the exceptions meant for users into one line."""

    def invoke(self, ctx: click.Context) -> Any:
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


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ulmfit-fast")
def main() -> None:
    """Train, use and inspect ULMFiT text classifiers.

    First steps: `ulmfit-fast demo`, then `ulmfit-fast train FILE`.
    """


@main.command()
@click.argument("file")
@label_column_option
@click.option("--valid", metavar="FILE", help="Validation rows. Default: 10 % of FILE.")
@click.option("--test", metavar="FILE", help="Rows for one test at the end.")
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Language model to start from: a run of pretrain or train.",
)
@click.option("--general", metavar="FILE", help="Text of any kind to pretrain on first.")
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="FILE",
    help="More texts like yours for the language model; may be repeated.",
)
@click.option("--general-epochs", type=click.IntRange(min=1), help="On the general text.")
@click.option("--lm-epochs", type=click.IntRange(min=1), help="Of the language model.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of the classifier.")
@run_options
def train(**values: Any) -> None:
    """Train a classifier from FILE, a table of texts and labels.

    FILE is csv, tsv, json, jsonl, parquet, txt or TREC's .label, also as .gz or .xz, or a data set
    of the Hub as hf:OWNER/NAME. Rows without a label help to train the language model.
    """  # fmt: skip
    from ulmfit_fast.commands.train import TrainOptions, train

    terminal = _terminal(values)
    files, settings = _files(values), _settings(values)
    train(TrainOptions(files=files, settings=settings, **values), terminal)


@main.command()
@click.argument("file", required=False)
@click.option(
    "--from",
    "start",
    metavar="MODEL",
    help="Go on from this language model: a model folder, or a .pth, .tgz or address of fastai's.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the text.")
@run_options
def pretrain(**values: Any) -> None:
    """Train a language model on FILE, text of any kind, from scratch or --from another one.

    Without FILE the model of --from is taken as it is, for train --base. In a .txt file every line
    is a text, or every <doc> ... </doc> where there are such.
    """  # fmt: skip
    from ulmfit_fast.commands.train import TrainOptions, pretrain

    terminal = _terminal(values)
    values["lm_epochs"] = values.pop("epochs")
    files, settings = _files(values), _settings(values)
    pretrain(TrainOptions(files=files, settings=settings, **values), terminal)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source", metavar="FILE|-")
@reading_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV to write. Default: standard output, with control characters escaped.",
)
@overwrite_option
@json_option
@debug_option
def predict(**values: Any) -> None:
    """Classify the texts of a file, or the lines of standard input with -.

    MODEL is the folder of a run or its model folder. Writes CSV: row, label, probability, the
    probability of every class, text. Row is the line of the file, of a text that spans several its
    first; of parquet, json and the Hub the number of the record. Rows without text are left out.
    """  # fmt: skip
    from ulmfit_fast.commands.apply import ApplyOptions, predict

    terminal = _terminal(values)
    predict(ApplyOptions(**values), terminal)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source", metavar="FILE")
@label_column_option
@reading_options
@json_option
@debug_option
def evaluate(**values: Any) -> None:
    """Measure a classifier on a table of texts and labels."""
    from ulmfit_fast.commands.apply import ApplyOptions, evaluate

    terminal = _terminal(values)
    evaluate(ApplyOptions(**values), terminal)


@main.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@json_option
@debug_option
def info(model: Path | None, as_json: bool) -> None:
    """Show this installation and its kernels, or what MODEL is."""
    from ulmfit_fast.commands.info import say_environment, say_model
    from ulmfit_fast.commands.terminal import Terminal

    terminal = Terminal(as_json=as_json)
    if model is None:
        say_environment(terminal)
    else:
        say_model(model, terminal)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@export_options
def export(**values: Any) -> None:
    """Write MODEL as one file for onnxruntime or torch.export, with its tokenizer beside it.

    MODEL is the folder of a run or its model folder. The file takes batches and texts of any
    length. It is written once it computes what the model computes.
    """
    from ulmfit_fast.commands.export import ExportOptions, export

    terminal = _terminal(values)
    export(ExportOptions(**values), terminal)


@main.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@convert_options
def convert(**values: Any) -> None:
    """Convert a model of fastai's to ours, or ours to fastai's.

    SOURCE is a .pth, .h5 or .tgz of fastai 0.7, v1 or v2 (file, folder or address), or a model
    folder, which becomes TARGET.pth and TARGET_vocab.pkl. Nothing in a file is run. Example:
    ulmfit-fast convert wt103-fwd.tgz general
    """  # fmt: skip
    from ulmfit_fast.commands.convert import ConvertOptions, convert

    terminal = _terminal(values)
    convert(ConvertOptions(**values), terminal)


@main.command()
@json_option
@debug_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say whether the GPU is used, why not, and what else to mend on this machine.

    Exit status 0 if nothing is to be mended, else 3. Example: ulmfit-fast doctor
    """
    from ulmfit_fast.commands.doctor import say_diagnosis
    from ulmfit_fast.commands.terminal import Terminal

    if not say_diagnosis(Terminal(as_json=as_json)):
        ctx.exit(EXIT_ENVIRONMENT)


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    metavar="DIR",
    help="An earlier demo there is replaced.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
@debug_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Show all three stages on texts that are on this machine: no download, a few minutes.

    The texts are docstrings of the Python standard library, numpy and torch; the classes are the
    packages they come from, whose names are masked.
    """  # fmt: skip
    from ulmfit_fast.commands.terminal import Terminal
    from ulmfit_fast.demo import run_demo

    run_demo(out, seed, Terminal(as_json=as_json))


def _terminal(values: dict[str, Any]) -> Terminal:
    from ulmfit_fast.commands.terminal import Terminal

    return Terminal(as_json=values.pop("as_json"))


def _files(values: dict[str, Any]) -> Files:
    """Take the options that name files and columns."""
    from ulmfit_fast.commands.data import Files

    names = (
        "valid", "test", "unlabelled", "general", "text_columns", "label_column", "encoding",
        "header",
    )  # fmt: skip
    return Files(
        train=values.pop("file") or "",
        **{name: values.pop(name) for name in names if name in values},
    )


def _settings(values: dict[str, Any]) -> Settings:
    """Take the options that decide how to train."""
    from ulmfit_fast.commands.choices import Settings

    names = (
        "preset", "size", "tokenizer", "device", "seed", "batch_size", "general_epochs",
        "lm_epochs", "epochs", "precision", "cuda_graphs",
    )  # fmt: skip
    return Settings(**{name: values.pop(name) for name in names if name in values})
