"""The report's pictures: each draws one pair of axes and becomes SVG that follows the theme."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from markupsafe import Markup
from matplotlib.axes import Axes

from ulmfit_fast.interpret.examination import Calibration, PartOverview
from ulmfit_fast.report.plots import (
    TITLES,
    draw_calibration,
    draw_lengths,
    draw_losses,
    draw_metric,
    draw_rates,
    draw_throughput,
    metric_of,
)
from ulmfit_fast.report.style import HEIGHT, new_plot, our_style
from ulmfit_fast.report.svg import themed_svg
from ulmfit_fast.report.text import number, percent
from ulmfit_fast.training.history import History, StageHistory

HEIGHT_WITH_LEGEND = HEIGHT + 0.45
_Shown = TypeVar("_Shown")


class Pictures:
    """Makes the pictures of one page, each with ids of its own."""

    def __init__(self) -> None:
        self._n = 0

    def rates(self, history: History) -> list[dict[str, Markup]]:
        """Return the rates of every stage on both scales."""
        return [
            {
                "linear": self._svg(
                    f"Learning rates of stage {title}", draw_rates, stage, HEIGHT_WITH_LEGEND
                ),
                "log": self._svg(
                    f"Learning rates of stage {title}, logarithmic",
                    lambda axes, stage: draw_rates(axes, stage, log=True), stage,
                    HEIGHT_WITH_LEGEND,
                ),
            }
            for title, stage in _titled(history)
        ]  # fmt: skip

    def curves(self, history: History) -> list[Markup]:
        """Return the losses of every stage, and its metric where it was measured."""
        made = []
        for title, stage in _titled(history):
            end = stage.points[-1].loss
            says = f"Losses of stage {title}; the training loss ends at {number(end, 3)}"
            made.append(self._svg(says, draw_losses, stage))
            name = metric_of(stage)
            if name:
                best = stage.metrics.get(name)
                shown = percent(best) if name == "accuracy" else number(best, 3)
                says = f"{name} of stage {title} by epoch; the model kept has {shown}"
                made.append(self._svg(says, draw_metric, stage))
        return made

    def throughput(self, history: History) -> list[Markup]:
        """Return the tokens a second of every stage."""
        return [
            self._svg(f"Tokens a second of stage {title}", draw_throughput, stage)
            for title, stage in _titled(history)
        ]

    def calibration(self, calibration: Calibration) -> Markup:
        """Return accuracy over confidence."""
        says = (
            "Share of right answers over their probability; expected calibration error "
            f"{percent(calibration.expected_error)}"
        )
        return self._svg(says, draw_calibration, calibration, height=3.6)

    def lengths(self, parts: tuple[PartOverview, ...]) -> Markup:
        """Return the lengths of the texts of every part."""
        says = "Lengths of the texts: " + ", ".join(
            f"{part.name} median {part.median_tokens:.0f} tokens" for part in parts
        )
        return self._svg(says, draw_lengths, parts, HEIGHT_WITH_LEGEND)

    def _svg(
        self,
        description: str,
        draw: Callable[[Axes, _Shown], None],
        shown: _Shown,
        height: float = HEIGHT,
    ) -> Markup:
        self._n += 1
        with our_style():
            figure, (axes,) = new_plot(height=height)
            draw(axes, shown)
        # The figure's text is escaped by the library that writes it.
        return Markup(themed_svg(figure, f"f{self._n}", description))


def _titled(history: History) -> list[tuple[str, StageHistory]]:
    return [(TITLES.get(stage.name, stage.name), stage) for stage in history.stages if stage.points]
