"""`ulmfit-fast report`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli.options import (
    complete_models,
    debug_option,
    json_option,
)
from ulmfit_fast.cli.values import terminal_of


@click.command()
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_models)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: report.html in RUN."
)
@click.option("--open", "is_opened", is_flag=True, help="Show it in a browser.")
@json_option
@debug_option
def report(run: Path, out: Path | None, is_opened: bool, **values: Any) -> None:
    """Write the report of RUN, a folder of train or pretrain, as one HTML file.

    It shows what the folder holds: data, choices, curves, mistakes, speed. A report that stands
    there is replaced.

    Example: ulmfit-fast report runs/reviews --open
    """  # fmt: skip
    from ulmfit_fast.commands.run_report import report

    report(run, out, terminal_of(values), is_opened=is_opened)
