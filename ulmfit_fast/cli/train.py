"""`ulmfit-fast train`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli.options import label_column_option, lm_lr_option, lr_option, run_options
from ulmfit_fast.cli.values import files_of, settings_of, terminal_of


@click.command()
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
@lm_lr_option
@lr_option
@run_options
def train(**values: Any) -> None:
    """Train a classifier from FILE, a table of texts and labels.

    FILE is csv, tsv, json, jsonl, parquet, txt or TREC's .label, also as .gz or .xz, or a data set
    of the Hub as hf:OWNER/NAME. Rows without a label help to train the language model.
    """  # fmt: skip
    from ulmfit_fast.commands.train import TrainOptions, train

    terminal = terminal_of(values)
    files, settings = files_of(values), settings_of(values)
    train(TrainOptions(files=files, settings=settings, **values), terminal)
