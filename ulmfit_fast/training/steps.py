"""One training step: forward pass, loss, backward pass, update."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ulmfit_fast.model import EncoderState, LanguageModel, LossParts, TextClassifier
from ulmfit_fast.optim import LayerwiseAdamW
from ulmfit_fast.training.config import StageName
from ulmfit_fast.training.micro_batches import MicroBatches
from ulmfit_fast.training.precision import Precision

Metrics = dict[str, float]
#: Is told a step's loss where it is to be read; may raise to give the stage up.
Reader = Callable[[LossParts], None]


@dataclass(frozen=True)
class Batch:
    """What a step is taken on.

    Attributes:
        inputs: arguments of the task's loss, on the device where it wants them.
        n_tokens: tokens that all processes read in the step.
        weight: of its loss in the mean over the processes: 1 where it has an equal share of the
            rows.
    """

    inputs: tuple[Tensor, ...]
    n_tokens: int
    weight: float = 1.0


class Task(Protocol):
    """What a stage trains: a model, its batches and its measure."""

    stage: StageName
    device: torch.device
    precision: Precision
    #: Whether batches come in few shapes, so that a CUDA graph for each is worth its capture.
    has_few_shapes: bool

    @property
    def model(self) -> LanguageModel | TextClassifier:
        """Return what is trained."""

    def describe(self) -> str:
        """Say in a few words what a batch is."""

    def n_batches(self, epoch: int) -> int:
        """Count the batches of an epoch."""

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from number start on."""

    def loss(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None
    ) -> tuple[LossParts, EncoderState | None]:
        """Return the loss of a batch, and the state that the next batch of the epoch begins in.

        Args:
            inputs: of the batch.
            state: what the batch before left; None at the beginning of an epoch.
        """

    def gradients_in_parts(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None, rows: int
    ) -> tuple[LossParts, EncoderState | None]:
        """Leave the gradient of the loss in the parameters, with so many rows in memory at a time.

        Args:
            inputs: of the batch.
            state: as for loss.
            rows: fewer than the batch has.

        Returns:
            loss: detached.
            state: as of loss.
        """

    def validate(self) -> Metrics:
        """Measure the model on the validation part; empty where there is none."""

    def score(self, metrics: Metrics) -> tuple[float, ...]:
        """Return what orders validation results; the smallest is the best."""


class EagerSteps:
    """Takes steps one operation after another, and hands the state from batch to batch.

    A step whose loss is not finite changes nothing: neither weights and moments, nor the state that
    the next batch begins in, nor the running means of a batch norm. Nothing waits for a GPU.

    Args:
        task: what is trained.
        optimizer: over the layers of the task's model; skips steps that are not finite.
    """

    def __init__(self, task: Task, optimizer: LayerwiseAdamW) -> None:
        self.task = task
        self.optimizer = optimizer
        self.state: EncoderState | None = None
        self.micro_batches = MicroBatches(task)

    def start_phase(self) -> None:
        """Prepare for other layers to train than before."""

    def start_epoch(self) -> None:
        """Begin the streams of an epoch with a state of zeros."""
        self.state = None

    def step(self, batch: Batch, read: Reader | None) -> LossParts:
        """Take a step.

        Args:
            batch: to learn from.
            read: told the loss; before the weights change, unless one graph holds it all.

        Returns:
            loss: detached; valid until the next step.
        """
        buffers = list(self.task.model.buffers())
        before = [buffer.clone() for buffer in buffers]

        def undo() -> None:
            self.free()
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)

        parts, state = self._gradients(batch, undo)
        if read is not None:
            read(parts)
        is_finite = parts.total.isfinite()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(is_finite, buffer, old))
        if state is not None:
            self._carry(self._state_if(is_finite, state))
        return parts

    def _gradients(
        self, batch: Batch, undo: Callable[[], None]
    ) -> tuple[LossParts, EncoderState | None]:
        """Leave the gradient of a batch's loss in the parameters; return the loss and the state.

        The loss is detached: with its history it would keep the nodes that add up gradients alive,
        and those run on the stream that they were made on, which no capture of another survives.

        Args:
            batch: to learn from.
            undo: removes what an attempt that ran out of memory has changed.
        """
        return self.micro_batches.gradients(batch.inputs, self.state, undo)

    def free(self) -> None:
        """Let go of what a step that ran out of memory has made."""
        self.optimizer.zero_grad()

    def _state_if(self, is_finite: Tensor, state: EncoderState) -> EncoderState:
        """Return the state, or what it was before the step where the step was not finite."""
        old = self.state or [(torch.zeros_like(h), torch.zeros_like(c)) for h, c in state]
        return [
            (torch.where(is_finite, h, old_h), torch.where(is_finite, c, old_c))
            for (h, c), (old_h, old_c) in zip(state, old, strict=True)
        ]

    def _carry(self, state: EncoderState) -> None:
        self.state = state
