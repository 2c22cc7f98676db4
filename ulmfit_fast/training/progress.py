"""Observers of a training for a terminal and for a log file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ulmfit_fast.training.observer import Observer, Step

if TYPE_CHECKING:
    from rich.console import Console

    from ulmfit_fast.training.progress_bar import LiveBar, Pace

# The average shown moves 2 % of the way to each new value (fastai's choice), corrected for its
# start at zero.
SMOOTHING = 0.98
# Seconds between two lines of a long epoch where there is no terminal to draw a bar on.
PLAIN_INTERVAL_S = 30.0
# Seconds between two looks at the GPU's memory.
MEMORY_INTERVAL_S = 0.5
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
        self.n_steps = 0

    def add(self, loss: float) -> None:
        """Take one more loss."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        self.n_steps += 1

    def mean(self) -> float:
        """Return the average of one loss or more."""
        return self._sum / (1 - SMOOTHING**self.n_steps)


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
    """Show the training in a terminal: a live block, and one line an epoch that stays.

    The block has the stage's number, step of steps, epoch, smoothed loss, tokens a second, the time
    that is left of the stage, the GPU's memory and the last validation's figures. It says nothing
    of the time left of the whole run: what a step of a later stage takes is not known before, and
    a stage may stop early. Where the stream is not a terminal that can move its cursor, plain lines
    without control codes are written instead: one a stage, one an epoch, and one every
    PLAIN_INTERVAL_S seconds in between.

    Args:
        stream: where to write; None is standard error, which leaves standard output for results.
        indent: spaces before each line.
        stages: the run's stages in order, and the epochs of each; None if that is not known.
        device: whose memory to show if it is a GPU; None is torch's current one.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        *,
        indent: int = 2,
        stages: Mapping[str, int] | None = None,
        device: str | None = None,
    ) -> None:
        from rich.console import Console

        self._console: Console = Console(file=stream, stderr=stream is None, highlight=False)
        # A terminal and not only FORCE_COLOR; a dumb one cannot move its cursor.
        self._is_live = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._indent = indent
        self._stages = dict(stages or {})
        self._device = device
        self._bar: LiveBar | None = None
        self._loss = _SmoothedLoss()
        self._rate = TokenRate()
        self._pace: Pace | None = None
        self._stage, self._n_steps, self._epoch = "", 0, 1
        # By number: a stage that goes on does not begin with its first.
        self._epochs: dict[int, dict[str, float]] = {}
        self._memory: str | None = None
        self._read_memory = -math.inf
        self._spoke = time.perf_counter()

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        """Print the stage's line and begin its bar."""
        self.close()
        self._loss, self._rate, self._n_steps = _SmoothedLoss(), TokenRate(), n_steps
        self._stage, self._epoch, self._epochs = stage, 1, {}
        title = stage
        if stage in self._stages:
            title = f"stage {self._place()} of {len(self._stages)}  {stage}"
        self._say(f"{stage}: {description} ({n_steps:,} steps)")
        if self._is_live:
            from ulmfit_fast.training.progress_bar import Pace

            self._pace = Pace(n_steps)
            self._draw(title, n_steps, facts=self._facts)

    def stage_resumed(self, stage: str, n_steps: int, description: str, step: int) -> None:
        """Print the stage's line, and after which of its steps it goes on."""
        self.stage_started(stage, n_steps, f"goes on after step {step:,}; {description}")

    def texts_done(self, what: str, done: int, total: int) -> None:
        """Show a bar of texts, unless they are so few that the first call is the last."""
        if done >= total:
            self.close()
        elif self._bar is not None:
            self._bar.block.title, self._bar.block.total = what, total
            self._bar.block.done = done
        elif self._is_live:
            self._draw(what, total, done, " texts")
        elif time.perf_counter() - self._spoke >= PLAIN_INTERVAL_S:
            self._say(f"{what}: {done:,}/{total:,} texts")

    def step(self, step: Step) -> None:
        """Move the bar; draws nothing, and reads the GPU's memory at most twice a second."""
        self._loss.add(step.loss)
        self._rate.step(step.n_tokens)
        self._epoch = step.epoch
        now = time.perf_counter()
        if self._bar is not None and self._pace is not None:
            self._pace.step(step.step)
            self._bar.block.done = step.step
            if now - self._read_memory >= MEMORY_INTERVAL_S:
                self._memory, self._read_memory = gpu_memory(self._device), now
        elif now - self._spoke >= PLAIN_INTERVAL_S:
            self._say(
                f"{step.stage}: step {step.step:,}/{self._n_steps:,}  {self._loss_and_rate()}"
            )

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        """Print the epoch's metrics on a line that stays."""
        self._epochs[epoch] = metrics
        seconds = f"  {metrics['seconds']:.1f} s" if "seconds" in metrics else ""
        if self._is_live:  # the stage's name stands just above
            self._say(f"epoch {self._of_all(epoch)}  {format_metrics(_few(metrics))}{seconds}")
        else:
            self._say(f"{stage}: epoch {self._of_all(epoch)}  {_figures(metrics)}{seconds}")
        self._rate.skip()
        if self._pace is not None:
            self._pace.epoch_ended(epoch)

    def stage_ended(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        """Take the bar away and print the stage's time, and which epoch's weights it keeps."""
        self.close()
        kept = ""
        numbers = [number for number, of_epoch in self._epochs.items() if of_epoch == metrics]
        if numbers and max(self._epochs) > 1:
            kept = f"; keeps epoch {numbers[0]}"
        figures = format_metrics(_few(metrics)) if self._is_live else _figures(metrics)
        self._say(f"{stage}: done in {seconds:.1f} s{kept}  {figures}".rstrip())

    def close(self) -> None:
        """Take the bar away and show the cursor again."""
        bar, self._bar, self._pace = self._bar, None, None
        if bar is not None:
            bar.stop()

    def _draw(
        self,
        title: str,
        total: int,
        done: int = 0,
        unit: str = "",
        facts: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        from ulmfit_fast.training.progress_bar import Block, LiveBar

        self._bar = LiveBar(self._console, Block(title, total, done, unit, facts, self._indent))

    def _facts(self) -> list[str]:
        """Return what stands below the bar, the most important first; called by its thread."""
        from ulmfit_fast.training.progress_bar import clock_time

        facts = [f"epoch {self._of_all(self._epoch)}"]
        if self._loss.n_steps:
            facts += self._loss_and_rate().split("  ")
        left = self._pace.seconds_left() if self._pace is not None else None
        if left is not None:
            is_last = not self._stages or self._place() == len(self._stages)
            facts.append(f"{clock_time(left)} left{'' if is_last else ' in this stage'}")
        if self._memory is not None:
            facts.append(self._memory)
        if self._epochs:
            last = {
                k: v for k, v in _few(self._epochs[max(self._epochs)]).items() if k != "train_loss"
            }
            facts += [format_metrics({name: value}) for name, value in last.items()]
        return facts

    def _loss_and_rate(self) -> str:
        return f"loss {self._loss.mean():.3f}  {_thousands(self._rate.mean())} tokens/s"

    def _place(self) -> int:
        """Return the number of the stage in the run, from 1."""
        names = list(self._stages)
        return names.index(self._stage) + 1 if self._stage in names else len(names)

    def _of_all(self, epoch: int) -> str:
        n_epochs = self._stages.get(self._stage)
        return f"{epoch}/{n_epochs}" if n_epochs else f"{epoch}"

    def _say(self, line: str) -> None:
        self._spoke = time.perf_counter()
        if not self._is_live:
            margin = " " * self._indent
            self._console.print(margin + line, markup=False, soft_wrap=True)
            return
        from ulmfit_fast.training.progress_bar import flow

        first, *more = flow(line.split("  "), self._console.width - self._indent - 3, cuts=False)
        for number, part in enumerate([first, *more]):
            margin = " " * (self._indent + (2 if number else 0))
            self._console.print(margin + part, markup=False, soft_wrap=True)


def gpu_memory(device: str | None) -> str | None:
    """Return the GPU's memory in use, by whomever, of all it has; None where torch uses none.

    Asks the driver, and does not wait for the GPU.
    """
    import torch

    is_gpu = device is None or device.startswith("cuda")
    if not is_gpu or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    free, total = torch.cuda.mem_get_info(device)
    return f"GPU {(total - free) / 1e9:.1f} of {total / 1e9:.1f} GB"


def _few(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what a line of a terminal has no room for and others say, too."""
    needless = {"seconds", "error", *(["accuracy"] if "perplexity" in metrics else [])}
    return {name: value for name, value in metrics.items() if name not in needless}


def _figures(metrics: Mapping[str, float]) -> str:
    return format_metrics({name: value for name, value in metrics.items() if name != "seconds"})


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Write metrics for people: percentages with a sign, everything else with four digits."""
    return "  ".join(f"{name} {_format_metric(name, value)}" for name, value in metrics.items())


def _format_metric(name: str, value: float) -> str:
    if name.rpartition("_")[2] in _PERCENT:  # valid_accuracy is an accuracy
        return f"{100 * value:.2f} %"
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
