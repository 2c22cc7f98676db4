"""A GPU with little memory, on a CPU, and steps of small models on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_training import small_config, weights_hash
from torch import Tensor

from ulmfit_fast import LayerwiseAdamW, _ops, functional
from ulmfit_fast.functional import layers, loss
from ulmfit_fast.model import (
    AWDLSTM,
    AWDLSTMConfig,
    Dropouts,
    LanguageModel,
    TextClassifier,
)
from ulmfit_fast.text.batches import ClassifierBatches, LMStream
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.training.steps import Batch, EagerSteps
from ulmfit_fast.training.tasks import ClassifierTask, LanguageModelTask

NONE = Dropouts(0.0, 0.0, 0.0, 0.0, 0.0)
#: Largest difference of a gradient from the whole batch's, over its own largest element.
ROUNDING = 2e-5
B = 7


class _Burst(torch.autograd.Function):
    """The identity, whose gradient does not fit into memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Memory:
    """Has room for so many rows of the encoder's input at once; rows of chunks are not counted.

    Attributes:
        rows: that fit.
        where: "forward" or "backward" runs out.
        n_bursts: how often it did.
    """

    def __init__(self, patch: pytest.MonkeyPatch, rows: int, where: str = "forward") -> None:
        self.rows, self.where, self.n_bursts = rows, where, 0
        of_loss, of_encode, run = LanguageModel.loss, TextClassifier.encode, AWDLSTM.forward

        def loss(model: Any, ids: Tensor, *arguments: Any) -> Any:
            parts, state = of_loss(model, ids, *arguments)
            return type(parts)(self.use(len(ids), parts.total), parts.cross_entropy), state

        def encode(
            model: Any, ids: Tensor, lengths: Any, part: Any = None, all_lengths: Any = None
        ) -> Any:
            pooled, output = of_encode(model, ids, lengths, part, all_lengths)
            return self.use(len(pooled), pooled), output

        def forward(model: Any, ids: Tensor, state: Any = None) -> Any:
            output, state = run(model, ids, state)
            return output if torch.is_grad_enabled() else self.use(len(ids), output), state

        patch.setattr(LanguageModel, "loss", loss)
        patch.setattr(TextClassifier, "encode", encode)
        patch.setattr(AWDLSTM, "forward", forward)

    def use(self, n_rows: int, x: Tensor) -> Tensor:
        if n_rows <= self.rows:
            return x
        self.n_bursts += 1
        if self.where == "forward" or not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        burst: Tensor = _Burst.apply(x)
        return burst


def as_on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    """Have nobody look at what tensors hold."""
    for module in (functional, layers):
        patch.setattr(module, "check_ids", lambda *arguments, **others: None)
    patch.setattr(loss, "_check_targets", lambda *arguments: None)
    patch.setattr(_ops.loss, "_is_one", lambda grad: False)


def lengths_of(seed: int) -> Tensor:
    """Draw lengths of B documents, some with chunks that no document pools."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(1, 24, (B,), generator=draw)


def task_of(stage: str, dropouts: Dropouts = NONE) -> LanguageModelTask | ClassifierTask:
    """Return the task of a small model; a test makes its batches."""
    torch.manual_seed(0)
    config = small_config(variable_bptt=False)
    sizes = AWDLSTMConfig(30, 8, 12, 2, 1, dropouts)
    corpus = Corpus(np.arange(60, dtype=np.int32) % 30, np.arange(0, 61, 6))
    if stage == "classifier":
        model = TextClassifier(sizes, 3, bptt=4, max_len=9, hidden_size=5)
        documents = ClassifierBatches(corpus, [0, 1] * 5, 4, train=True)
        task: Any = ClassifierTask(model, documents, None, config)
    else:
        stream = LMStream(corpus, 2, 5, seed=0)
        task = LanguageModelTask(LanguageModel(sizes), stream, None, config, "pretrain")
    task.model.train()
    return task  # type: ignore[no-any-return]


def batches_of(stage: str, n: int) -> list[Batch]:
    """Draw batches of B rows, of different lengths."""
    found = []
    for k in range(n):
        draw = torch.Generator().manual_seed(k)
        if stage == "classifier":
            lengths = lengths_of(k)
            ids = torch.randint(2, 30, (B, int(lengths.max())), generator=draw)
            ids[torch.arange(ids.shape[1]) >= lengths[:, None]] = 1
            inputs = (ids, lengths, torch.randint(3, (B,), generator=draw))
        else:
            ids = torch.randint(2, 30, (B, 5 + k), generator=draw)
            inputs = (ids, torch.randint(2, 30, ids.shape, generator=draw))
        found.append(Batch(inputs, inputs[0].numel()))
    return found


class Taken:
    """Steps that were taken: gradients, losses, and all that has state after them."""

    def __init__(self, stage: str, rows: int | None, dropouts: Dropouts = NONE, **how: Any) -> None:
        self.task = task_of(stage, dropouts)
        if how.get("only_head"):
            self.task.model.encoder.requires_grad_(False)
        parameters = list(self.task.model.parameters())
        # A rate of 0: the gradients of later steps are then those of equal weights.
        self.steps = EagerSteps(self.task, LayerwiseAdamW(parameters, lr=how.get("lr", 0.0)))
        self.steps.micro_batches.limit.rows = rows
        self.grads: list[list[Tensor | None]] = []
        self.losses: list[float] = []
        step = self.steps.optimizer.step

        def spy() -> None:
            self.grads.append([None if p.grad is None else p.grad.clone() for p in parameters])
            step()

        self.steps.optimizer.step = spy  # type: ignore[method-assign, assignment]
        torch.manual_seed(1)
        for batch in batches_of(stage, 3):
            loss = self.steps.step(batch, None)
            self.losses += [loss.total.item(), loss.cross_entropy.item()]
        self.generator = torch.get_rng_state()

    def assert_close(self, other: Taken) -> None:
        for ours, theirs in zip(self.grads, other.grads, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    assert (a - b).abs().max() <= ROUNDING * b.abs().max()
        assert self.losses == pytest.approx(other.losses, rel=1e-5)
        pairs = zip(self.steps.state or [], other.steps.state or [], strict=True)
        for (h, c), (other_h, other_c) in pairs:
            torch.testing.assert_close((h, c), (other_h, other_c))
        buffers = zip(self.task.model.buffers(), other.task.model.buffers(), strict=True)
        for buffer, other_buffer in buffers:
            torch.testing.assert_close(buffer, other_buffer)

    def assert_equal(self, other: Taken) -> None:
        assert self.losses == other.losses
        assert weights_hash(self.task.model) == weights_hash(other.task.model)
        assert torch.equal(self.generator, other.generator)
