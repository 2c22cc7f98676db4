"""A curve and bars in a terminal, of block characters, without colors and control codes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

WIDTH = 72
HEIGHT = 10
# Columns of the labels of the vertical axis, the axis itself included.
MARGIN = 10
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ACROSS = " ▏▎▍▌▋▊▉█"


def has_blocks() -> bool:
    """Tell whether standard output can hold block characters."""
    try:
        "█│└".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def curve(
    rates: Sequence[float], values: Sequence[float], marks: Mapping[str, float], *, blocks: bool
) -> list[str]:
    """Return the lines of a plot of values over rates, whose axis is logarithmic.

    Values far above the first ones, where a loss bursts, are cut off at the top.

    Args:
        rates: rising, above 0.
        values: one for each.
        marks: letter to rate, shown below the axis.
        blocks: whether block characters may be used, else #.
    """
    n_columns = WIDTH - MARGIN
    low, high = min(values), _top(values)
    logs = [math.log10(rate) for rate in rates]
    at = [logs[0] + (logs[-1] - logs[0]) * c / (n_columns - 1) for c in range(n_columns)]
    heights = [(_between(logs, values, x) - low) / (high - low) for x in at]
    # The smallest value is still a sliver: a column without any would look like a missing one.
    eighths = [1 + round(min(1.0, h) * (8 * HEIGHT - 1)) for h in heights]
    lines = []
    for row in reversed(range(HEIGHT)):
        cells = "".join(_cell(n - 8 * row, blocks) for n in eighths)
        name = {HEIGHT - 1: f"{high:.3g}", 0: f"{low:.3g}"}.get(row, "")
        lines.append(f"{name:>{MARGIN - 2}s} {'│' if blocks else '|'}{cells}".rstrip())
    lines.append(" " * (MARGIN - 1) + ("└" + "─" * n_columns if blocks else "+" + "-" * n_columns))
    lines.append(_labels(logs[0], logs[-1], n_columns))
    lines.append(_marks(marks, logs[0], logs[-1], n_columns))
    return [line.rstrip() for line in lines if line.strip()]


def _cell(n: int, blocks: bool) -> str:
    n = max(0, min(8, n))
    if blocks:
        return _EIGHTHS[n]
    return "#" if n >= 4 else " "


def _top(values: Sequence[float]) -> float:
    """Return the upper end of the axis."""
    smallest = values.index(min(values))
    before = max(values[: smallest + 1])
    high = min(max(values), before + 0.3 * (before - min(values)) or math.inf)
    return high if high > min(values) else max(values) + 1e-9 + abs(max(values)) * 1e-9


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return y at x on the line through the points."""
    for (x0, y0), (x1, y1) in zip(
        zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False
    ):
        if x <= x1:
            return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
    return ys[-1]


def _place(log: float, first: float, last: float, n_columns: int) -> int:
    return round((log - first) / (last - first) * (n_columns - 1))


def _labels(first: float, last: float, n_columns: int) -> str:
    """Return the line of the powers of ten below the axis."""
    cells = [" "] * (n_columns + MARGIN + 8)
    end = 0
    for power in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1):
        name = f"1e{power}" if power else "1"
        place = MARGIN + _place(power, first, last, n_columns)
        if place >= end and place + len(name) <= WIDTH:
            cells[place : place + len(name)] = name
            end = place + len(name) + 3
    return "".join(cells)


def _marks(marks: Mapping[str, float], first: float, last: float, n_columns: int) -> str:
    """Return the line of the letters; where two fall together, the second stands beside."""
    cells = [" "] * (MARGIN + n_columns + len(marks))
    for letter, rate in marks.items():
        place = MARGIN + _place(math.log10(rate), first, last, n_columns)
        place = max(MARGIN, min(place, len(cells) - 1))
        while cells[place] != " ":
            place = place + 1 if place + 1 < len(cells) else MARGIN
        cells[place] = letter
    return "".join(cells)


def bar(value: float, largest: float, n_columns: int, *, blocks: bool) -> str:
    """Return a bar across whose full length is that of the largest value.

    Args:
        value: from 0 to largest.
        largest: above 0.
        n_columns: length of the largest.
        blocks: whether block characters may be used, else #.
    """
    if not blocks:
        return "#" * max(1, round(value / largest * n_columns))
    eighths = max(1, round(8 * value / largest * n_columns))
    return _ACROSS[8] * (eighths // 8) + (_ACROSS[eighths % 8] if eighths % 8 else "")
