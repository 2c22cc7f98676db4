"""Texts and numbers as a page shows them."""

from __future__ import annotations

import math
import re

# Controls but tab and line end, what turns the direction of text beyond its own element, and
# halves of characters, which UTF-8 cannot write.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Return a text whose control characters are seen as their escapes."""
    return _UNSEEN.sub(lambda match: _escape(ord(match.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def excerpt(text: str, n_characters: int = 260) -> str:
    """Return the beginning of a text, white space as single spaces, controls visible."""
    # A text may be megabytes long: only what can matter is looked at.
    line = visible(" ".join(text[: 4 * n_characters].split()))
    if len(line) <= n_characters and len(text) <= 4 * n_characters:
        return line
    return line[: n_characters - 1].rstrip() + "\u2026"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as a percentage; a dash for none."""
    if share is None or not math.isfinite(share):
        return "\u2013"
    return f"{100 * share:.{digits}f}\u00a0%"


def interval(bounds: tuple[float, float] | list[float]) -> str:
    """Write the bounds of a share as percentages."""
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}\u00a0%"


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with so many digits that count; a dash for none."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    if value == int(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def counted(n: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def mebibytes(n_bytes: float) -> str:
    """Write an amount of memory."""
    mib = n_bytes / 2**20
    return f"{mib / 1024:.2f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def part_name(part: str) -> str:
    """Return "validation" for "valid", other parts as they are."""
    return "validation" if part == "valid" else part
