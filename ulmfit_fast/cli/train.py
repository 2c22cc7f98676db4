"""`ulmfit-fast train`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import (
    base_option,
    complete_files,
    label_column_option,
    lm_lr_option,
    lr_option,
    run_options,
)
from ulmfit_fast.cli.values import check_resume, files_of, settings_of, terminal_of


@click.command()
@click.argument("file", required=False, shell_complete=complete_files)
@label_column_option
@click.option(
    "--valid",
    metavar="FILE",
    shell_complete=complete_files,
    help="Validation rows. Default: 10 % of FILE.",
)
@click.option(
    "--test", metavar="FILE", shell_complete=complete_files, help="Rows for one test at the end."
)
@base_option
@click.option(
    "--general",
    metavar="FILE",
    shell_complete=complete_files,
    help="Text of any kind to pretrain on first; also a folder of files, or a pattern in quotes.",
)
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="FILE",
    shell_complete=complete_files,
    help="More texts like yours for the language model; also a folder, ...; may be repeated.",
)
@click.option("--general-epochs", type=click.IntRange(min=1), help="Passes over --general.")
@click.option(
    "--lm-epochs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Passes of the language model over your texts.",
)
@click.option(
    "--epochs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Passes of the classifier over your labels.",
)
@lm_lr_option
@lr_option
@run_options
@click.pass_context
def train(ctx: click.Context, /, **values: Any) -> None:
    """Train a classifier from FILE, a table of texts and labels.

    FILE is csv, tsv, json, jsonl, parquet, txt or TREC's .label, also as .gz or .xz, or a data set
    of the Hub as hf:OWNER/NAME. Rows without a label help to train the language model.

    Example: ulmfit-fast train reviews.csv --label-column stars
    """  # fmt: skip
    from ulmfit_fast.commands.train import train
    from ulmfit_fast.commands.train_options import TrainOptions

    check_resume(ctx, values)
    if values["file"] is None and values["resume"] is None:
        raise click.UsageError("Missing argument 'FILE'.")
    terminal = terminal_of(values)
    files, settings = files_of(values), settings_of(values)
    train(TrainOptions(files=files, settings=settings, **values), terminal)
