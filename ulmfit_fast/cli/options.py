"""Options that several commands of the command line share; only click is imported here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

#: Key of click's meta: whether tracebacks are shown.
DEBUG = "ulmfit_fast.debug"
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
device_option = click.option("--device", metavar="cpu|cuda", help="Default: a GPU if there is one.")
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
    click.option("--tokenizer", type=click.Choice(["word", "subword"]), help="Default: word."),
    click.option("--preset", type=click.Choice(["paper", "fastai"]),
                 help="Recipe of schedules and rates. Default: fastai; to train without --base, "
                      "paper with 10 epochs of the language model and 15 of the classifier."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--batch-size", type=click.IntRange(min=1),
                 help="Rows of a batch. Default: by the amount of text."),
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
    click.option("--to", type=click.Choice(["onnx", "torch-export"]), default="onnx",
                 show_default=True, help="Form of the file: .onnx, or torch.export's .pt2."),
    click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE",
                 help="File to write; NAME.tokenizer.json is written beside it."),
    click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32",
                 show_default=True, help="Of weights in an .onnx; bf16 halves the file."),
    click.option("--int8", is_flag=True, help="8-bit weights and products in an .onnx."),
    click.option("--texts", metavar="FILE",
                 help="Texts to check the file with. Default: drawn tokens."),
    overwrite_option,
    json_option,
    debug_option,
)  # fmt: skip
