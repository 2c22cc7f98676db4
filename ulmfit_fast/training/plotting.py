"""A trainer's pictures: it keeps the history of its stages and draws it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from ulmfit_fast.training.evaluation import Evaluation
from ulmfit_fast.training.history import History
from ulmfit_fast.training.observer import Observer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _plots() -> ModuleType:
    # A door upward: report stands above training, and is imported when it is used.
    return import_module("ulmfit_fast.report.plots")


class Plots:
    """Methods of a trainer that draw; figures of matplotlib, shown by notebooks as they are.

    Attributes:
        history: what the stages told; it is always among the observers.
    """

    @property
    def history(self) -> History:
        """What the stages did until now."""
        kept: History | None = self.__dict__.get("_history")
        return kept if kept is not None else self.__dict__.setdefault("_history", History())

    @property
    def observers(self) -> list[Observer]:
        """Who is told of every step and epoch; the trainer's history is among them."""
        kept: list[Observer] = self.__dict__.setdefault("_observers", [self.history])
        return kept

    @observers.setter
    def observers(self, observers: Iterable[Observer]) -> None:
        others = [observer for observer in observers if observer is not self.history]
        self.__dict__["_observers"] = [self.history, *others]

    def plot_losses(self) -> Figure:
        """Draw training and validation loss of every stage.

        Raises:
            InputError: no stage was trained by this trainer.
        """
        figure: Figure = _plots().plot_losses(self.history)
        return figure

    def plot_metrics(self) -> Figure:
        """Draw perplexity or accuracy of every stage on held-out texts, epoch by epoch.

        Raises:
            InputError: no stage was trained by this trainer, or none was measured.
        """
        figure: Figure = _plots().plot_metrics(self.history)
        return figure

    def plot_rates(self, *, log: bool = False) -> Figure:
        """Draw the learning rate of every layer group as it ran; where frozen, there is no line.

        Args:
            log: whether the rates are drawn on a logarithmic scale.

        Raises:
            InputError: no stage was trained by this trainer.
        """
        figure: Figure = _plots().plot_rates(self.history, log=log)
        return figure

    def plot_confusion(self, evaluation: Evaluation, *, max_classes: int = 20) -> Figure:
        """Draw what the classifier takes for what.

        Args:
            evaluation: of this trainer's classifier, from evaluate().
            max_classes: classes shown, those that are confused most.
        """
        figure: Figure = _plots().plot_confusion(
            list(evaluation.per_class), evaluation.confusion, max_classes=max_classes
        )
        return figure
