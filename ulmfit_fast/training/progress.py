"""Observers of a training for a terminal and for a log file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ulmfit_fast.training.observer import Observer, Step

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

# The average shown moves 2 % of the way to each new value (fastai's choice), corrected for its
# start at zero.
SMOOTHING = 0.98
# Seconds between two lines of a long epoch where there is no terminal to draw a bar on.
PLAIN_INTERVAL_S = 30.0
# Metrics in [0, 1] that are shown as percentages.
_PERCENT = frozenset({"accuracy", "error"})


class TokenRate:
    """Tokens a second of the training steps alone: what happens between epochs does not count."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds = 1e-9  # no division by zero on a coarse clock
        self._n_tokens = 0

    def step(self, n_tokens: int) -> float:
        """Count a step of n_tokens tokens and return its tokens a second."""
        now = time.perf_counter()
        elapsed, self._last = max(now - self._last, 1e-9), now
        self._seconds += elapsed
        self._n_tokens += n_tokens
        return n_tokens / elapsed

    def skip(self) -> None:
        """Leave out the time since the last step."""
        self._last = time.perf_counter()

    def mean(self) -> float:
        """Return the tokens a second of all steps."""
        return self._n_tokens / self._seconds


class _SmoothedLoss:
    def __init__(self) -> None:
        self._sum = 0.0
        self._n_steps = 0

    def add(self, loss: float) -> float:
        """Take one more loss and return the average."""
        self._n_steps += 1
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        return self._sum / (1 - SMOOTHING**self._n_steps)


class JsonlLog(Observer):
    """Append every event to a file, one JSON object a line, each line flushed.

    Keys: `event` (stage_started, step, epoch_ended, stage_ended), `stage`, `time` (seconds since
    1970), and for each event its own; numbers that are not finite become null, as JSON has no NaN.

    Args:
        path: the file; its folder must exist when the first event comes. Made by the first event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._rate = TokenRate()

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        """Write n_steps and the description."""
        self._rate = TokenRate()
        self._write("stage_started", stage, {"n_steps": n_steps, "description": description})

    def stage_resumed(self, stage: str, n_steps: int, description: str, step: int) -> None:
        """Write nothing: the stage's beginning is in the file, which was cut back to this step."""
        self._rate = TokenRate()

    def step(self, step: Step) -> None:
        """Write the step with the tokens a second since the event before."""
        values = {
            "step": step.step, "epoch": step.epoch, "loss": step.loss, "n_tokens": step.n_tokens,
            "lr": step.lr, "rates": dict(step.rates), "beta1": step.beta1,
        }  # fmt: skip
        tokens_per_s = round(self._rate.step(step.n_tokens), 1)
        self._write("step", step.stage, {**values, "tokens_per_s": tokens_per_s})

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        """Write the epoch's metrics."""
        self._write("epoch_ended", stage, {"epoch": epoch, **metrics})
        self._rate.skip()

    def stage_ended(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        """Write the stage's seconds and metrics."""
        # The metrics have seconds too, those of the epoch that is kept.
        self._write("stage_ended", stage, {**metrics, "seconds": round(seconds, 3)})

    def close(self) -> None:
        """Close the file; a later event opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: str, stage: str, values: Mapping[str, object]) -> None:
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        record = {"event": event, "stage": stage, "time": round(time.time(), 3)}
        record.update({name: _finite(value) for name, value in values.items()})
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class ConsoleProgress(Observer):
    """Show the training in a terminal: a live bar, and one line an epoch that stays.

    The bar has step of steps, smoothed loss, tokens a second and the time that is left. Where the
    stream is not a terminal, plain lines without control codes are written instead: one a stage,
    one an epoch, and one every PLAIN_INTERVAL_S seconds in between.

    Args:
        stream: where to write; None is standard error, which leaves standard output for results.
        indent: spaces before each line.
    """

    def __init__(self, stream: IO[str] | None = None, *, indent: int = 2) -> None:
        from rich.console import Console

        self._console: Console = Console(file=stream, stderr=stream is None, highlight=False)
        self._indent = " " * indent
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._loss = _SmoothedLoss()
        self._rate = TokenRate()
        self._n_steps = 0
        self._spoke = time.perf_counter()

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        """Print the stage's line and begin its bar."""
        self.close()
        self._loss, self._rate, self._n_steps = _SmoothedLoss(), TokenRate(), n_steps
        self._say(f"{stage}: {description} ({n_steps} steps)")
        if self._console.is_terminal:
            self._bar = _make_bar(self._console, self._indent)
            self._task = self._bar.add_task(stage, total=n_steps, loss="", rate="")
            self._bar.start()

    def texts_done(self, what: str, done: int, total: int) -> None:
        """Show a bar of texts, unless they are so few that the first call is the last."""
        if done >= total:
            self.close()
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=done, total=total)
        elif self._console.is_terminal:
            self._bar = _make_bar(self._console, self._indent)
            self._task = self._bar.add_task(
                what, total=total, completed=done, loss="texts", rate=""
            )
            self._bar.start()
        elif time.perf_counter() - self._spoke >= PLAIN_INTERVAL_S:
            self._say(f"{what}: {done}/{total} texts")

    def step(self, step: Step) -> None:
        """Move the bar."""
        smoothed = self._loss.add(step.loss)
        self._rate.step(step.n_tokens)
        loss_text, rate_text = f"loss {smoothed:.3f}", f"{_thousands(self._rate.mean())} tokens/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step.step, loss=loss_text, rate=rate_text)
        elif time.perf_counter() - self._spoke >= PLAIN_INTERVAL_S:
            self._say(f"{step.stage}: step {step.step}/{self._n_steps}  {loss_text}  {rate_text}")

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        """Print the epoch's metrics on a line that stays."""
        self._say(f"{stage}: epoch {epoch}  {format_metrics(metrics)}")
        self._rate.skip()

    def stage_ended(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        """Take the bar away and print the stage's time."""
        self.close()
        self._say(f"{stage}: done in {seconds:.1f} s  {format_metrics(metrics)}".rstrip())

    def close(self) -> None:
        """Take the bar away and show the cursor again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._task = None, None

    def _say(self, line: str) -> None:
        self._spoke = time.perf_counter()
        self._console.print(self._indent + line, markup=False, soft_wrap=True)


def _make_bar(console: Console, indent: str) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[ProgressColumn] = [
        TextColumn(indent + "{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
        TextColumn("{task.fields[loss]}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("left", markup=False),
    ]
    return Progress(*columns, console=console, transient=True, refresh_per_second=4)


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Write metrics for people: percentages with a sign, everything else with four digits."""
    return "  ".join(f"{name} {_format_metric(name, value)}" for name, value in metrics.items())


def _format_metric(name: str, value: float) -> str:
    if name.rpartition("_")[2] in _PERCENT:  # valid_accuracy is an accuracy
        return f"{100 * value:.2f} %"
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
