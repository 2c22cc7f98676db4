"""Lines for people, JSON for programs, and nothing of the data that could act on a terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence

# Controls, what turns the direction of text, separators that a terminal may take for line ends, and
# halves of characters that cannot be written at all.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
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
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def say(self, line: str = "") -> None:
        """Write a line for people to standard output, unless results are wanted as JSON."""
        if not self.as_json:
            sys.stdout.write(printable(line) + "\n")
            sys.stdout.flush()

    def note(self, line: str) -> None:
        """Write a line for people to standard error, whatever standard output carries."""
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()

    def warn(self, line: str) -> None:
        """Write a warning to standard error."""
        self.note(f"warning: {line}")

    def result(self, values: Mapping[str, object]) -> None:
        """Write one JSON object, if results are wanted as JSON."""
        if self.as_json:
            sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")
            sys.stdout.flush()

    def table(self, rows: Sequence[Sequence[str]], *, indent: int = 2) -> None:
        """Write rows of cells in columns; the first column to the left, the others to the right."""
        widths = [
            max(len(printable(cell)) for cell in column) for column in zip(*rows, strict=True)
        ]
        for row in rows:
            cells = [printable(cell) for cell in row]
            first = cells[0].ljust(widths[0])
            others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            self.say(" " * indent + "  ".join([first, *others]).rstrip())


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
