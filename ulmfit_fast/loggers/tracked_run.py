"""A run in a tracker with wandb's interface, which trackio has taken over."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Protocol

from ulmfit_fast.errors import InputError, one_line
from ulmfit_fast.loggers.metrics import Handover, MetricLogger


class Run(Protocol):
    """What a tracker's init returns."""

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Take metrics of a step."""

    def finish(self) -> None:
        """Send or write what is still held."""


class TrackedRunLogger(MetricLogger):
    """Hands metrics to a run that was begun by a tracker's init.

    What a tracker prints goes to standard error: standard output is for results.

    Args:
        name: of the tracker.
        begin: calls its init.
        end: ends the run in place of the run's own finish.
        steps_before: as for MetricLogger.
        warn: as for MetricLogger.

    Raises:
        InputError: the tracker cannot begin a run, as without a login or a network.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], Run],
        *,
        end: Callable[[], None] | None = None,
        steps_before: Mapping[str, int] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name, steps_before=steps_before, warn=warn)
        with Handover(self._refuse), redirect_stdout(sys.stderr):
            self._run = begin()
            self._end = end or self._run.finish

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand the metrics on."""
        with redirect_stdout(sys.stderr):
            self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """End the run."""
        with redirect_stdout(sys.stderr):
            self._end()

    def _refuse(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{self._name} cannot begin a run: {said}") from error
