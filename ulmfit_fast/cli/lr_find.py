"""`ulmfit-fast lr-find`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli.options import (
    base_option,
    complete_files,
    debug_option,
    json_option,
    label_column_option,
    reading_options,
)
from ulmfit_fast.cli.values import files_of, settings_of, terminal_of

RATE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("file", shell_complete=complete_files)
@label_column_option
@click.option(
    "--stage", type=click.Choice(["classifier", "language-model", "pretrain"]),
    help="Of train, or the verb pretrain. Default: classifier with --base, else language-model.",
)  # fmt: skip
@base_option
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="FILE",
    help="More texts for the language model; may be repeated.",
)
@click.option("--size", type=click.Choice(["tiny", "small", "base"]), help="As in train.")
@click.option("--tokenizer", type=click.Choice(["word", "subword"]), help="As in train.")
@click.option("--preset", type=click.Choice(["paper", "fastai"]), help="As in train.")
@click.option("--batch-size", type=click.IntRange(min=1), help="As in train.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@reading_options
@click.option("--lowest", type=RATE, default=1e-7, show_default=True, help="Rate to begin with.")
@click.option("--highest", type=RATE, default=10.0, show_default=True, help="Rate to end at.")
@click.option(
    "--steps", type=click.IntRange(min=20), default=100, show_default=True,
    help="Steps between; the test ends sooner where the loss bursts.",
)  # fmt: skip
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE",
    help="Picture to write: .svg, .png or .pdf.",
)  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="As in train.")
@click.option("--no-cache", is_flag=True, help="Keep no numericalized texts.")
@json_option
@debug_option
def lr_find(**values: Any) -> None:
    """Find a learning rate for training on FILE: a range test, its curve, a suggestion.

    A stage's own steps are taken at rates that grow until the loss bursts. Nothing is saved. FILE
    and the options are those of train; give the same ones.

    Example: ulmfit-fast lr-find reviews.csv --base runs/general --plot rates.svg
    """
    from ulmfit_fast.commands.lr_find import LrFindOptions, lr_find
    from ulmfit_fast.training.range_tasks import Rates

    terminal = terminal_of(values)
    rates = Rates(values.pop("lowest"), values.pop("highest"), values.pop("steps"))
    files, settings = files_of(values), settings_of(values)
    lr_find(LrFindOptions(files=files, settings=settings, rates=rates, **values), terminal)
