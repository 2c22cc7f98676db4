"""The live block of a training in a terminal, for any width; imported only where there is one."""

from __future__ import annotations

import atexit
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

# Twice a second is as often as a person reads, and keeps drawing far below 1 % of a step's time.
DRAWN_PER_S = 2
WIDEST_BAR, NARROWEST_BAR = 40, 12
# What a step takes is an average over about this time: unfreezing makes later epochs slower.
PACE_S = 20.0


class Pace:
    """How long the rest of a stage takes, at the pace of the last steps and validations.

    Args:
        n_steps: of the stage.
        clock: seconds.
    """

    def __init__(self, n_steps: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._n_steps = n_steps
        self._clock = clock
        self._step: int | None = None  # None: how many steps were done before is not known yet
        self._told = clock()
        self._seconds = self._steps = 0.0  # of the last steps, older ones with less weight
        self._validation = 0.0
        self._steps_an_epoch: float | None = None

    def step(self, step: int) -> None:
        """Take the number of a step that is done."""
        now = self._clock()
        if self._step is not None and step > self._step:
            elapsed = now - self._told
            weight = math.exp(-elapsed / PACE_S)
            self._seconds = weight * self._seconds + elapsed
            self._steps = weight * self._steps + (step - self._step)
        self._step, self._told = step, now

    def epoch_ended(self, epoch: int) -> None:
        """Take the time since the last step as that of a validation."""
        now = self._clock()
        self._validation, self._told = now - self._told, now
        if self._step is not None:
            self._steps_an_epoch = self._step / epoch

    def seconds_left(self) -> float | None:
        """Return the seconds until the stage ends, or None as long as nothing tells."""
        if self._step is None or not self._steps:
            return None
        steps = self._n_steps - self._step
        seconds = steps * self._seconds / self._steps - (self._clock() - self._told)
        if self._steps_an_epoch:
            seconds += self._validation * math.ceil(steps / self._steps_an_epoch)
        return max(0.0, seconds)


@dataclass
class Block:
    """What is drawn: a bar with its count, and facts that flow into as many lines as they need.

    Attributes:
        title: to the left of the bar, or above it where it is narrow.
        total: of what the bar counts.
        done: of these.
        unit: of the count.
        facts: short pieces, the most important first.
        indent: spaces before each line.
    """

    title: str
    total: int
    done: int = 0
    unit: str = ""
    facts: Callable[[], Sequence[str]] = field(default=tuple)
    indent: int = 2

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the block out for the width there is."""
        width = max(options.max_width - self.indent - 1, 1)  # 1: no line touches the last column
        margin, title = " " * self.indent, cut(self.title, width)
        counted = cut(f"{self.done:,}/{self.total:,}{self.unit}", width)
        left = width - cell_len(counted) - 2
        shares_line = left - cell_len(title) - 2 >= NARROWEST_BAR
        yield Text(margin + title, style="bold", end="  " if shares_line else "\n")
        if shares_line:
            left -= cell_len(title) + 2
        else:
            yield Text(margin, end="")
        if left > 0:
            # Not yielded as it is: it would be given a line of its own.
            bar = ProgressBar(self.total, self.done, width=min(left, WIDEST_BAR))
            yield from bar.__rich_console__(console, options)
            yield Text("  ", end="")
        yield Text(counted, no_wrap=True)
        for line in flow(self.facts(), width):
            yield Text(margin + line, no_wrap=True)


class _ResizedLive(Live):
    """A live display that finds its lines again after the terminal was made narrower.

    Terminals then break a line that has become too long, so that the block has more rows than were
    drawn.
    """

    _drawn_at = 0

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Count the rows that the block has now before the cursor goes up over them."""
        width = self.console.width
        if width < self._drawn_at and self._live_render._shape is not None:
            options = self.console.options.update(width=self._drawn_at)
            lines = self.console.render_lines(self._live_render.renderable, options, pad=False)
            lengths = [sum(segment.cell_length for segment in line) for line in lines]
            rows = sum(max(1, math.ceil(length / width)) for length in lengths)
            self._live_render._shape = (width, rows)
        self._drawn_at = width
        return super().process_renderables(renderables)


class LiveBar:
    """Draws a block twice a second in a thread, and gives the cursor back, also at a crash."""

    def __init__(self, console: Console, block: Block) -> None:
        self.block = block
        # What goes to a file or a pipe is none of the terminal's.
        self._live = _ResizedLive(
            block, console=console, transient=True, refresh_per_second=DRAWN_PER_S,
            redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stderr.isatty(),
        )  # fmt: skip
        atexit.register(self.stop)
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Take the block away; may be called twice."""
        self._live.stop()
        atexit.unregister(self.stop)


def flow(pieces: Sequence[str], width: int, *, cuts: bool = True) -> list[str]:
    """Return pieces in lines of at most width cells, two spaces between.

    A longer piece is cut, or else broken between its words.
    """
    lines: list[str] = []
    whole: list[str] = []
    for piece in pieces:
        whole += [cut(piece, width)] if cuts else wrap(piece, max(width, 1), break_long_words=False)
    for piece in whole:
        if lines and cell_len(lines[-1]) + 2 + cell_len(piece) <= width:
            lines[-1] += "  " + piece
        else:
            lines.append(piece)
    return lines


def cut(text: str, width: int) -> str:
    """Return a text of at most width cells, with dots at its end where it was longer."""
    if cell_len(text) <= width:
        return text
    shown = Text(text)
    shown.truncate(max(0, width - 3))
    return (shown.plain + "...")[: max(width, 1)]


def clock_time(seconds: float) -> str:
    """Return seconds as 0:07, 12:34 or 1:02:03."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
