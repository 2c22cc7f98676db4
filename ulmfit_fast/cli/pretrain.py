"""`ulmfit-fast pretrain`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import lr_option, run_options
from ulmfit_fast.cli.values import files_of, settings_of, terminal_of


@click.command()
@click.argument("file", required=False)
@click.option(
    "--from",
    "start",
    metavar="MODEL",
    help="Go on from this language model: a model folder, or a .pth, .tgz or address of fastai's.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the text.")
@lr_option
@run_options
def pretrain(**values: Any) -> None:
    """Train a language model on FILE, text of any kind, from scratch or --from another one.

    Without FILE the model of --from is taken as it is, for train --base. In a .txt file every line
    is a text, or every <doc> ... </doc> where there are such.
    """  # fmt: skip
    from ulmfit_fast.commands.train import TrainOptions, pretrain

    terminal = terminal_of(values)
    values["lm_epochs"], values["lm_lr"] = values.pop("epochs"), values.pop("lr")
    files, settings = files_of(values), settings_of(values)
    pretrain(TrainOptions(files=files, settings=settings, **values), terminal)
