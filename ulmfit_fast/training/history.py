"""What the stages of a training did, step by step: kept in memory, or read from a log file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ulmfit_fast.training.observer import Observer, Step

# Points kept of a stage; beyond them neighbours are merged, so that memory does not grow with the
# training. A picture of 400 pixels shows no more.
MAX_POINTS = 2_000


@dataclass(frozen=True)
class Point:
    """A step, or the mean of neighbouring ones.

    Attributes:
        step: of the stage, from 1; the last of those merged.
        loss: training loss without regularisation; nats a token, or a document; the mean.
        tokens_per_s: tokens read a second; the mean; nan where unknown.
        rates: learning rate of each layer group at that step; 0 where it is frozen.
        beta1: Adam's at that step.
    """

    step: int
    loss: float
    tokens_per_s: float
    rates: Mapping[str, float]
    beta1: float


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch.

    Attributes:
        number: in the stage, from 1.
        step: the last one told of.
        metrics: losses and metrics.
    """

    number: int
    step: int
    metrics: Mapping[str, float]


@dataclass
class StageHistory:
    """One stage as it ran.

    Attributes:
        name: "pretrain", "language_model" or "classifier".
        n_steps: planned optimizer steps.
        description: one line for people.
        points: steps whose loss was read, at most MAX_POINTS.
        epochs: those that ended.
        seconds: wall time; None while it runs, or when it was broken off.
        metrics: of the model it kept; empty likewise.
        n_tokens: read in the steps told of.
    """

    name: str
    n_steps: int = 0
    description: str = ""
    points: list[Point] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    n_tokens: int = 0
    _pending: list[Point] = field(default_factory=list, repr=False)
    _stride: int = field(default=1, repr=False)

    @property
    def groups(self) -> list[str]:
        """Names of the layer groups, from the lowest up."""
        return list(self.points[-1].rates) if self.points else []

    def add(self, point: Point) -> None:
        """Add a step; one that was told before, as after a resume, takes the place of the old."""
        if self._last_step() >= point.step:
            self._flush()
            self.points = [kept for kept in self.points if kept.step < point.step]
            self.epochs = [kept for kept in self.epochs if kept.step < point.step]
        self._pending.append(point)
        if len(self._pending) >= self._stride:
            self._flush()
        if len(self.points) > MAX_POINTS:
            pairs = [self.points[k : k + 2] for k in range(0, len(self.points), 2)]
            self.points = [_merged(pair) for pair in pairs]
            self._stride *= 2

    def end_epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add the end of an epoch."""
        self._flush()
        self.epochs = [epoch for epoch in self.epochs if epoch.number < number]
        self.epochs.append(Epoch(number, self._last_step(), dict(metrics)))

    def _last_step(self) -> int:
        newest = self._pending or self.points
        return newest[-1].step if newest else 0

    def _flush(self) -> None:
        if self._pending:
            self.points.append(_merged(self._pending))
            self._pending = []


def _merged(points: list[Point]) -> Point:
    last, n = points[-1], len(points)
    return Point(
        last.step,
        sum(point.loss for point in points) / n,
        sum(point.tokens_per_s for point in points) / n,
        last.rates,
        last.beta1,
    )


class History(Observer):
    """Keeps what the stages of a training told.

    Attributes:
        stages: in the order they ran.
    """

    def __init__(self) -> None:
        self.stages: list[StageHistory] = []
        self._told = time.perf_counter()

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        """Begin a stage, or go on with the one of that name that has not ended."""
        now = self._stage(stage)
        now.n_steps, now.description = n_steps, description
        self._told = time.perf_counter()

    def step(self, step: Step) -> None:
        """Keep a step, with the tokens a second since the event before."""
        now = time.perf_counter()
        tokens_per_s = step.n_tokens / max(now - self._told, 1e-9)
        self._told = now
        self._add(step.stage, step.n_tokens, Point(
            step.step, step.loss, tokens_per_s, dict(step.rates), step.beta1
        ))  # fmt: skip

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        """Keep the epoch's metrics."""
        self._stage(stage).end_epoch(epoch, metrics)
        self._told = time.perf_counter()

    def stage_ended(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        """Keep the stage's time and metrics."""
        ended = self._stage(stage)
        ended.seconds = seconds
        ended.metrics = {name: value for name, value in metrics.items() if name != "seconds"}

    def _add(self, stage: str, n_tokens: int, point: Point) -> None:
        now = self._stage(stage)
        now.n_tokens += n_tokens
        now.add(point)

    def _stage(self, name: str) -> StageHistory:
        """Return the stage that runs; a new one if it has ended or another name comes."""
        last = self.stages[-1] if self.stages else None
        if last is None or last.name != name or last.seconds is not None:
            last = StageHistory(name)
            self.stages.append(last)
        return last

    def replay(self, event: Mapping[str, Any]) -> None:
        """Take an event as JsonlLog writes it; those it does not know are left out.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, OverflowError: a value is missing, of a
                wrong kind or too large.
        """
        kind, stage = event["event"], str(event["stage"])
        if kind == "stage_started":
            self.stage_started(stage, int(event["n_steps"]), str(event["description"]))
        elif kind == "step":
            rates = {str(name): _number(rate) for name, rate in event["rates"].items()}
            self._add(stage, int(event["n_tokens"]), Point(
                int(event["step"]), _number(event["loss"]), _number(event["tokens_per_s"]), rates,
                _number(event["beta1"]),
            ))  # fmt: skip
        elif kind == "epoch_ended":
            self.epoch_ended(stage, int(event["epoch"]), _metrics(event))
        elif kind == "stage_ended":
            self.stage_ended(stage, float(event["seconds"]), _metrics(event))


def _number(value: float | None) -> float:
    return (
        math.nan if value is None else float(value)
    )  # JsonlLog writes null for what is not finite


def _metrics(event: Mapping[str, Any]) -> dict[str, float]:
    facts = ("event", "stage", "time", "epoch")
    return {
        name: _number(value)
        for name, value in event.items()
        if name not in facts and isinstance(value, int | float | None)
    }


def read_log(path: Path) -> tuple[History, int]:
    """Read a file that JsonlLog wrote.

    Args:
        path: the file; a last line that a stopped run left half written does no harm.

    Returns:
        history: of its stages.
        n_unread: lines that are not events.

    Raises:
        OSError: the file cannot be read.
    """
    history, n_unread = History(), 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                history.replay(json.loads(line))
            except (
                AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError
            ):  # fmt: skip
                n_unread += bool(line.strip())
    return history, n_unread
