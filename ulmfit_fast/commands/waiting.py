"""A bar on standard error while something takes its time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ulmfit_fast.commands.terminal import Terminal

#: Told (what is done now, parts done, parts).
Bar = Callable[[str, int, int], None]


@contextmanager
def showing_progress(terminal: Terminal) -> Iterator[Bar | None]:
    """Yield what moves the bar; None where there is no terminal, or results are JSON."""
    if terminal.as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("preparing", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )
