"""What a training tells as flat metrics of one run: the base of all loggers."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType

from ulmfit_fast.errors import one_line
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.progress import TokenRate


class MetricLogger(Observer):
    """Hands every step and epoch on as named numbers.

    Names begin with the stage: `classifier/loss`, `classifier/tokens_per_s`, `classifier/beta1`,
    `classifier/lr/<layer group>`, what an epoch measured as `classifier/valid_loss`, ..., and
    `classifier/seconds`. The step goes on over the stages.

    A logger that fails (network, disk) does not end the training: it is warned of once, and left
    alone from then on.

    Args:
        name: for the warning.
        steps_before: steps of every stage that another process did before this one, in order.
        warn: takes the warning; None takes warnings.warn.
    """

    def __init__(
        self,
        name: str,
        *,
        steps_before: Mapping[str, int] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._name = name
        self._warn = warn or _warn
        self._before = dict(steps_before or {})
        self._first = self._last = sum(self._before.values())
        self._rate = TokenRate()
        self._has_failed = self._is_closed = False

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand metrics of a step to the library."""

    @abstractmethod
    def finish(self) -> None:
        """Tell the library that the run is over, and have it write what it holds."""

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        """Have the stage's steps follow those of the stages before."""
        if stage in self._before:  # where it goes on, its steps have their own numbers
            earlier = list(self._before).index(stage)
            self._last = sum(list(self._before.values())[:earlier])
        self._before.clear()
        self._first = self._last
        self._rate = TokenRate()

    def step(self, step: Step) -> None:
        """Hand on loss, tokens a second, beta1 and the rate of every layer group."""
        self._last = self._first + step.step
        metrics = {
            "loss": step.loss,
            "tokens_per_s": self._rate.step(step.n_tokens),
            "beta1": step.beta1,
            **{f"lr/{group}": rate for group, rate in step.rates.items()},
        }
        self._hand_on(step.stage, metrics)

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        """Hand on what the epoch measured."""
        self._hand_on(stage, {"epoch": epoch, **metrics})
        self._rate.skip()

    def stage_ended(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        """Hand on the stage's time, and what the model that it keeps measured."""
        best = {f"best/{name}": value for name, value in metrics.items() if name != "seconds"}
        self._hand_on(stage, {"seconds": seconds, **best})

    def close(self) -> None:
        """Finish the run, also after an error of the training; the second time nothing."""
        if not self._is_closed:
            self._is_closed = True
            with Handover(self._fail):
                self.finish()

    def _hand_on(self, stage: str, metrics: Mapping[str, float]) -> None:
        if self._has_failed or self._is_closed:
            return
        with Handover(self._fail):
            self.log({f"{stage}/{name}": value for name, value in metrics.items()}, self._last)

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            said = f"{type(error).__name__}: {one_line(error)}"
            self._warn(f"{self._name} failed, the training goes on without it ({said})")


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


class Handover:
    """Hands an error of a tracker's library to `fail`; what such libraries raise has no bounds."""

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):  # Ctrl-C is nobody's failure
            return False
        self._fail(error)
        return True
