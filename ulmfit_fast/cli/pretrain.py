"""`ulmfit-fast pretrain`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import complete_files, lr_option, run_options
from ulmfit_fast.cli.values import check_resume, files_of, settings_of, terminal_of


@click.command()
@click.argument("file", required=False, shell_complete=complete_files)
@click.option(
    "--from",
    "start",
    metavar="MODEL",
    shell_complete=complete_files,
    help="Go on from this language model: a model folder, or a .pth, .tgz or address of fastai's.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the text.")
@lr_option
@run_options
@click.pass_context
def pretrain(ctx: click.Context, /, **values: Any) -> None:
    """Train a language model on FILE, text of any kind, from scratch or --from another one.

    FILE may also be a folder of files of one kind (parquet, jsonl, csv, txt), or a pattern in
    quotes, such as 'corpus/**/train-*.parquet': memory does not grow with what they hold. In a .txt
    file every line is a text, or every <doc> ... </doc> where there are such. Without FILE the
    model of --from is taken as it is, for train --base.

    Example: ulmfit-fast pretrain wiki.txt --out general
    """  # fmt: skip
    from ulmfit_fast.commands.train import pretrain
    from ulmfit_fast.commands.train_options import TrainOptions

    check_resume(ctx, values)
    terminal = terminal_of(values)
    values["lm_epochs"], values["lm_lr"] = values.pop("epochs"), values.pop("lr")
    files, settings = files_of(values), settings_of(values)
    pretrain(TrainOptions(files=files, settings=settings, **values), terminal)
