"""Lines for people, JSON for programs, and nothing of the data that could act on a terminal."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

# Controls, what turns the direction of text, separators that a terminal may take for line ends, and
# halves of characters that cannot be written at all.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
# A terminal of fewer columns than these gets tables without an indent.
NARROW = 60
# Cells before the text of a fact.
NAME_WIDTH = 10
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """Return text on one line with every control character as its escape."""
    return _UNSAFE.sub(lambda match: _escape(match.group()), text)


def _escape(character: str) -> str:
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


class Terminal:
    """Where a command writes.

    Args:
        as_json: results are one JSON object a line on standard output, and lines for people are
            left out; notes and warnings still go to standard error.
        is_silent: nothing is written at all, as in all but one of several processes.
    """

    def __init__(self, *, as_json: bool = False, is_silent: bool = False) -> None:
        self.as_json = as_json
        self.is_silent = is_silent

    def say(self, line: str = "") -> None:
        """Write a line for people to standard output, unless results are wanted as JSON."""
        if not (self.as_json or self.is_silent):
            sys.stdout.write(printable(line) + "\n")
            sys.stdout.flush()

    def fact(self, name: str, text: str) -> None:
        """Write what a name stands for; a terminal that is too narrow gets it in several lines.

        Paths and commands that are to be copied belong into `say`, which never breaks a line.
        """
        line = f"{name:{NAME_WIDTH}s}{text}"
        for part in _in_lines(line, " " * NAME_WIDTH) if self.is_live else [line]:
            self.say(part)

    @property
    def is_live(self) -> bool:
        """Whether lines for people go to a terminal that may have colors and tables."""
        return not (self.as_json or self.is_silent) and sys.stdout.isatty()

    def note(self, line: str) -> None:
        """Write a line for people to standard error, whatever standard output carries."""
        if self.is_silent:
            return
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()

    def warn(self, line: str) -> None:
        """Write a warning to standard error, in several lines where a terminal is too narrow."""
        line = f"warning: {line}"
        for part in _in_lines(line, "  ") if sys.stderr.isatty() else [line]:
            self.note(part)

    def result(self, values: Mapping[str, object]) -> None:
        """Write one JSON object, if results are wanted as JSON."""
        if self.as_json and not self.is_silent:
            sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")
            sys.stdout.flush()

    def table(
        self, rows: Sequence[Sequence[str]], *, indent: int = 2, left: Sequence[int] = (0,)
    ) -> None:
        """Write rows of cells in columns.

        Args:
            rows: the first one has the names of the columns.
            indent: spaces before each row.
            left: numbers of the columns that are set to the left; the others are to the right.
        """
        cells = [[printable(cell) for cell in row] for row in rows]
        if self.is_live:
            _draw_table(cells, indent, left)
            return
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            sized = enumerate(zip(row, widths, strict=True))
            line = "  ".join(c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in sized)
            self.say(" " * indent + line.rstrip())


def _in_lines(line: str, indent: str) -> list[str]:
    """Break a line between its words for the width of the terminal."""
    width = max(shutil.get_terminal_size().columns, 2 * NAME_WIDTH)
    return textwrap.wrap(
        printable(line), width, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _draw_table(rows: Sequence[Sequence[str]], indent: int, left: Sequence[int]) -> None:
    """Draw a table whose cells are broken where the terminal is too narrow for them."""
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold",
                  collapse_padding=True)  # fmt: skip
    for number, name in enumerate(rows[0]):
        table.add_column(Text(name), justify="left" if number in left else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(cell.replace(" %", "\u00a0%")) for cell in row))  # never apart
    console = Console(file=sys.stdout, highlight=False)
    console.print(Padding(table, (0, 0, 0, indent if console.width >= NARROW else 0)))


def shorten(text: str, n_characters: int = 60) -> str:
    """Return the beginning of a text on one line, for a message."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= n_characters else line[: n_characters - 3] + "..."


def listing(items: Sequence[object], n_items: int = 5) -> str:
    """Return the first items with commas between, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:n_items])
    return shown if len(items) <= n_items else f"{shown} and {len(items) - n_items} more"


def count(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural with an s unless it is one."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
