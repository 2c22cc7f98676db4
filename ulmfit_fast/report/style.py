"""How the figures look: their colours, and the settings of matplotlib they are drawn with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each colour has a name of the report's style sheet, which gives it another value in the dark. On
# white and on black each has a contrast of 3 or more to the background.
INK, MUTED, GRID = "#1d2126", "#5d6670", "#dfe3e8"
SERIES = ("#2463b0", "#c05a12", "#2b8557", "#7c50ab", "#ad3455", "#5b6b1f")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    **{colour: f"--series-{n}" for n, colour in enumerate(SERIES, 1)},
}
# Inches: a figure of one pair of axes is as wide as a phone when an inch is 80 pixels.
WIDTH, HEIGHT = 4.4, 2.75

_SETTINGS: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 10.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "svg.fonttype": "none",
    "svg.hashsalt": "ulmfit_fast",
    "text.parse_math": False,
}


class Plot(Figure):
    """A figure that a notebook shows by itself, without pyplot and its global state."""

    def settle(self) -> None:
        """Lay out once more: numbers at an axis change when it shrinks, and then their width."""
        self.draw_without_rendering()

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.settle()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


@contextmanager
def our_style() -> Iterator[None]:
    """Draw with the report's settings; the caller's come back after."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_plot(n_axes: int = 1, *, height: float = HEIGHT) -> tuple[Plot, list[Axes]]:
    """Return an empty figure with so many axes side by side; within our_style()."""
    figure = Plot(figsize=(WIDTH * n_axes, height), layout="constrained")
    axes = figure.subplots(1, n_axes, squeeze=False)
    return figure, list(axes[0])
