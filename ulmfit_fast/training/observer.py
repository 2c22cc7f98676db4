"""What a running training tells: observers, and what they are told of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """An optimizer step whose loss was read.

    Attributes:
        stage: its name.
        step: number in the stage, from 1.
        epoch: number in the stage, from 1.
        loss: training loss without regularisation; nats a token, or a document.
        n_tokens: tokens read since the step told of before.
        rates: learning rate of each layer group, from the embedding up; 0 where it is frozen.
        beta1: Adam's, which the schedule moves.
    """

    stage: str
    step: int
    epoch: int
    loss: float
    n_tokens: int
    rates: Mapping[str, float]
    beta1: float

    @property
    def lr(self) -> float:
        """The highest rate."""
        return max(self.rates.values(), default=0.0)


class Observer:
    """Is told what a training does; every method may be left as it is.

    A stage calls `stage_started` (`stage_resumed` where it goes on), then for each of its epochs
    `step` at every optimizer step whose loss is read (all on a CPU, one in twenty on a GPU) and is
    finite, and `epoch_ended`, then `stage_ended`. An observer must not change the training.
    """

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        """Begin a stage of n_steps optimizer steps; the description is one line for people."""

    def stage_resumed(self, stage: str, n_steps: int, description: str, step: int) -> None:
        """Go on with a stage after `step` of its n_steps, that others were told of; as if it began.

        The description is that of `stage_started`.

        A log that was cut back to this step has the stage's beginning, and writes nothing.
        """
        self.stage_started(stage, n_steps, description)

    def step(self, step: Step) -> None:
        """Tell of an optimizer step."""

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        """End epoch number `epoch` of the stage, from 1, with its losses and metrics."""

    def stage_ended(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        """End the stage after so many seconds, with the metrics of the model it keeps."""

    def texts_done(self, what: str, done: int, total: int) -> None:
        """Tell, before a stage, of how many texts what it needs (vocabulary, ids) is made.

        Called after every block of about a million characters.

        Args:
            what: is made.
            done: texts that are through.
            total: all texts.
        """

    def close(self) -> None:
        """Free what the observer holds, also after an error; may be called twice."""


def tell_texts_done(observers: Sequence[Observer], what: str, done: int, total: int) -> None:
    """Tell observers that `what` a stage needs is made of `done` of a total of texts."""
    for observer in observers:
        observer.texts_done(what, done, total)
