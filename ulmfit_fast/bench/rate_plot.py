"""The picture of a learning-rate range test."""

from __future__ import annotations

from pathlib import Path

from ulmfit_fast.bench.figure import MARK, OTHER, OURS, PEER, drawing
from ulmfit_fast.training.range_test import RangeTest


def draw_range_test(path: Path, found: RangeTest) -> None:
    """Draw the loss over the rate, single and smoothed, with the suggestions.

    Args:
        path: .svg, .png or .pdf.
        found: the test.
    """
    with drawing(path, 8.4, 4.2) as figure:
        axis = figure.subplots()
        axis.plot(found.rates, found.raw_losses, color=OTHER, linewidth=1, label="each step")
        axis.plot(found.rates, found.losses, color=OURS, linewidth=2, label="smoothed")
        suggestions = found.suggestions
        named = (
            ("valley", suggestions.valley, "-"),
            ("steep", suggestions.steep, "--"),
            ("minimum/10", suggestions.minimum, ":"),
        )
        for name, rate, style in named:
            color = PEER if name == "valley" else MARK
            axis.axvline(rate, color=color, linestyle=style, label=f"{name}: {rate:.2g}")
        lowest = min(*found.raw_losses, *found.losses)
        highest = max(found.losses[: found.losses.index(min(found.losses)) + 1])
        room = max(highest - lowest, 1e-9)
        axis.set_ylim(lowest - 0.1 * room, highest + 0.5 * room)  # not where the loss bursts
        axis.set_xscale("log")
        axis.set_xlabel("learning rate of the top layer")
        axis.set_ylabel("loss")
        axis.set_title(f"Range test: {found.stage.replace('_', ' ')}", loc="left")
        figure.legend(frameon=False, loc="outside right upper")
