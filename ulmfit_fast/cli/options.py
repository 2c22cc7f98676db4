"""Options and arguments that several verbs share; only click is imported here."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ulmfit_fast.commands.invocation import DEBUG as DEBUG  # its place for the verbs

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


def _options(*decorators: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Apply several options to a command, shown in the order given."""

    def decorate(command: _Command) -> _Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def complete_files(*_: object) -> list[CompletionItem]:
    """Leave the names of files to the shell, also where an address may be given instead."""
    return [CompletionItem("", type="file")]


def complete_models(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the runs under runs/ that begin so, and else folders."""
    runs = sorted({str(path.parent) for name in ("model", "language_model")
                   for path in Path("runs").glob(f"*/{name}")})  # fmt: skip
    fitting = [run for run in runs if run.startswith(incomplete) and not set(run) & set(" '\"\\$")]
    return [CompletionItem(run) for run in fitting] or [CompletionItem("", type="dir")]


def _check_installed(
    ctx: click.Context, _: click.Parameter, trackers: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse a tracker whose library is missing, before any work is done."""
    for tracker in trackers:
        spec = find_spec(tracker)
        if spec is None or spec.origin is None:  # a folder of this name is no library
            raise click.BadParameter(
                f'{tracker} is not installed: pip install "ulmfit_fast[{tracker}]"'
            )
    return trackers


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show the traceback of an error.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Results as JSON on standard output."
)
encoding_option = click.option(
    "--encoding", metavar="NAME", help="Of the files; UTF-8 and UTF-16 are detected."
)
device_option = click.option(
    "--device", metavar="cpu|cuda", help="Default: a GPU if there is one.",
    shell_complete=lambda *_: [CompletionItem(name) for name in ("cpu", "cuda")],
)  # fmt: skip
model_argument = click.argument(
    "model", type=click.Path(path_type=Path), shell_complete=complete_models
)
precision_option = click.option(
    "--precision", type=click.Choice(["auto", "bf16", "fp32"]),
    help="Of products. Default: a given MODEL's, else auto: bf16 where the hardware has it.",
)  # fmt: skip
text_column_option = click.option(
    "--text-column", "text_columns", multiple=True, metavar="NAME",
    help="Column of the text; repeat it for more than one. Default: the model's, else found.",
)  # fmt: skip
label_column_option = click.option(
    "--label-column", metavar="NAME", help="Column of the label. Default: found."
)
header_option = click.option(
    "--header/--no-header", default=None,
    help="Whether csv and tsv files begin with column names. Default: found for each.",
)  # fmt: skip
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what stands at --out, once the new one is whole."
)


class Duration(click.ParamType[float]):
    """Hours, minutes and seconds, such as 2h, 45m or 1h30m; in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", str(value))
        if not value or match is None:
            self.fail(f"{value!r} is no time such as 2h, 45m or 1h30m", param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return 3600.0 * hours + 60.0 * minutes + seconds


base_option = click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    shell_complete=complete_models,
    help="Language model to start from: a run of pretrain or train, english, or none. Default: "
    "english, which comes with ulmfit_fast, for English texts.",
)
lr_option = click.option(
    "--lr", type=click.FloatRange(min=0, min_open=True), metavar="RATE",
    help="Largest learning rate. Default: the recipe's; lr-find suggests one.",
)  # fmt: skip
lm_lr_option = click.option(
    "--lm-lr", type=click.FloatRange(min=0, min_open=True), metavar="RATE",
    help="The same of the language model.",
)  # fmt: skip
reading_options = _options(
    text_column_option, header_option, encoding_option, device_option, precision_option
)
run_options = _options(
    click.option("--size", type=click.Choice(["tiny", "small", "base"]),
                 help="Default: base on a GPU; on a CPU tiny below 200,000 words, else small."),
    click.option("--tokenizer", type=click.Choice(["word", "subword"]),
                 help="Default: word; subword for languages that build long words."),
    click.option("--preset", type=click.Choice(["paper", "fastai"]),
                 help="Recipe of schedules and rates. Default: fastai; to train from scratch "
                      "paper with 10 epochs of the language model and 15 of the classifier, on a "
                      "base of less than size base paper with 2 and 12."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Of everything random: the same seed gives the same figures."),
    click.option("--batch-size", type=click.IntRange(min=1),
                 help="Rows of a batch, under torchrun in each process. Default: by the amount of "
                      "text."),
    reading_options,
    click.option("--cuda-graphs/--no-cuda-graphs", default=False, show_default=True,
                 help="Train language models by replaying CUDA graphs: the same results."),
    click.option("--cache", type=click.Path(path_type=Path), metavar="DIR",
                 help="Keeps numericalized texts for the next run; may be deleted at any time. "
                      "Default: ulmfit_fast in $XDG_CACHE_HOME or ~/.cache."),
    click.option("--no-cache", is_flag=True, help="Keep no numericalized texts."),
    click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
                 help="Default: runs/<name of FILE>."),
    overwrite_option,
    click.option("--report/--no-report", default=True, show_default=True,
                 help="Write report.html at the end."),
    click.option("--log-to", type=click.Choice(["tensorboard", "wandb", "trackio"]), multiple=True,
                 callback=_check_installed,
                 help="Also log the training there; may be repeated. TensorBoard's files stand in "
                      "the run's folder."),
    click.option("--resume", type=click.Path(path_type=Path), metavar="RUN",
                 help="Go on with a run that was stopped, killed or failed, where it was; takes "
                      "everything else from it."),
    click.option("--checkpoint-every", type=click.FloatRange(min=0), metavar="MINUTES",
                 default=5.0, show_default=True, help="Save the training itself so often."),
    click.option("--time-limit", type=Duration(), metavar="TIME",
                 help="Stop in time, saved for --resume, after 2h, 45m, ...; exit status 75."),
    click.option("--rank-timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
                 default=90.0, show_default=True,
                 help="Under torchrun: end if a process does not answer for so long."),
    json_option,
    debug_option,
)  # fmt: skip
convert_options = _options(
    click.option("--vocab", type=click.Path(path_type=Path), metavar="FILE",
                 help="Vocabulary of a model of fastai's. Default: the .pkl beside it."),
    click.option("--labels", metavar="A,B,...", help="Names of a classifier's classes."),
    click.option("--encoder-only", is_flag=True,
                 help="Without head and decoder: for load_encoder, or if a head cannot be read."),
    click.option("--overwrite", is_flag=True, help="Replace what stands at TARGET."),
    json_option,
    debug_option,
)  # fmt: skip
export_options = _options(
    click.option("--to", type=click.Choice(["onnx", "torch-export", "packed"]), default="onnx",
                 show_default=True, help="Form: .onnx, torch.export's .pt2, or a model folder of "
                 "a quarter of the size, which every verb reads."),
    click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE",
                 help="File to write, with NAME.tokenizer.json beside it; folder for packed."),
    click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32",
                 show_default=True, help="Of weights; bf16 halves an .onnx, and packs in place of "
                 "int8."),
    click.option("--int8", is_flag=True,
                 help="8-bit weights in place of --precision; in an .onnx also products."),
    click.option("--texts", metavar="FILE", shell_complete=complete_files,
                 help="Texts to check the file with. Default: drawn tokens."),
    overwrite_option,
    json_option,
    debug_option,
)  # fmt: skip
