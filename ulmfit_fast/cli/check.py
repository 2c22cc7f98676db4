"""`ulmfit-fast check`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import (
    complete_files,
    debug_option,
    encoding_option,
    header_option,
    json_option,
    label_column_option,
    text_column_option,
)
from ulmfit_fast.cli.status import EXIT_FINDINGS
from ulmfit_fast.cli.values import files_of, terminal_of


@click.command()
@click.argument("file", shell_complete=complete_files)
@click.option("--valid", metavar="FILE", shell_complete=complete_files, help="Validation rows.")
@click.option("--test", metavar="FILE", shell_complete=complete_files, help="Test rows.")
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="FILE",
    shell_complete=complete_files,
    help="More texts for the language model; may be repeated.",
)
@text_column_option
@label_column_option
@header_option
@encoding_option
@click.option(
    "--ignore",
    multiple=True,
    metavar="NAME",
    help="A finding to leave out, such as duplicates; may be repeated.",
)
@json_option
@debug_option
@click.pass_context
def check(ctx: click.Context, /, **values: Any) -> None:
    """Look for what is wrong in FILE, a table of texts and labels, before it is trained.

    FILE and the others are read as train reads them; nothing is written. Exit status 0 if there is
    nothing or there are notes alone, 1 with warnings or errors, 2 if a file cannot be read.

    Example: ulmfit-fast check reviews.csv --test held_out.csv
    """
    from ulmfit_fast.commands.check import check

    terminal = terminal_of(values)
    if not check(files_of(values), values["ignore"], terminal):
        ctx.exit(EXIT_FINDINGS)
