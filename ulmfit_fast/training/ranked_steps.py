"""Training steps that several processes take together: each on its rows, all with one update.

What is averaged over the processes is the loss of each, weighted by its rows: that of one process
with all rows, whatever the shares. Gradients are averaged by DistributedDataParallel while the
backward pass runs, in buckets that the gradients are views of; the optimizer then does the same to
the same bits everywhere. A batch norm sees all rows.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ulmfit_fast.model import EncoderState, LossParts
from ulmfit_fast.optim import LayerwiseAdamW
from ulmfit_fast.training.ranks import Ranks
from ulmfit_fast.training.steps import Batch, EagerSteps, Task

#: Its name from torch 2.13 on, and the one before.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)


class RankedSteps(EagerSteps):
    """Takes steps together with other processes; see EagerSteps.

    Args:
        task: what is trained; its batches are this process's, with its weight.
        optimizer: over the layers of the task's model.
        ranks: the processes.
    """

    def __init__(self, task: Task, optimizer: LayerwiseAdamW, ranks: Ranks) -> None:
        super().__init__(task, optimizer)
        self.ranks = ranks
        self._wrapped: nn.Module | None = None

    def start_phase(self) -> None:
        """Wrap the model anew: other parameters have gradients now."""
        self._wrapped = None
        gc.collect()  # it is in a circle, and its hooks would average the gradients once more
        # The buffers are those of a batch norm that sees all rows: they stay alike by themselves.
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        self._wrapped = DistributedDataParallel(
            _Loss(self.task), gradient_as_bucket_view=True, **options
        )

    def _gradients(
        self, batch: Batch, undo: Callable[[], None]
    ) -> tuple[LossParts, EncoderState | None]:
        """Leave the mean gradient in the parameters; return the loss of all, and the own state.

        A batch that does not fit into memory is not cut: the others would wait meanwhile.
        """
        if self._wrapped is None:
            raise RuntimeError("start_phase has not been called")
        total, cross_entropy, state = self._wrapped(batch.inputs, self.state)
        own = total * batch.weight
        everyones = torch.stack([own.detach(), cross_entropy * batch.weight]) / self.ranks.size
        found = self.ranks.sum(everyones)
        # NaN where the loss of any process is not finite: then no gradient is.
        torch.autograd.backward(own, found[0] * 0 + 1)
        return LossParts(found[0], found[1]), state


class _Loss(nn.Module):
    """A task's loss as a module, for what wraps modules."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None
    ) -> tuple[Tensor, Tensor, EncoderState | None]:
        """Return both parts of the loss and the next state."""
        parts, state = self._task.loss(inputs, state)
        return parts.total, parts.cross_entropy, state


class RankedBatchNorm(nn.BatchNorm1d):
    """A batch norm over the rows of all processes; without training the ordinary one.

    Equivalent to: nn.BatchNorm1d on all rows. torch's SyncBatchNorm runs on GPUs only, and wants
    rows in every process.

    Shape: [B, C] -> [B, C]; B may be 0 here, if it is not everywhere.
    """

    ranks: Ranks

    @classmethod
    def of(cls, norm: nn.BatchNorm1d, ranks: Ranks) -> RankedBatchNorm:
        """Return one with the parameters and buffers of another, not copies of them."""
        made = cls(norm.num_features, norm.eps, norm.momentum, device="meta")
        made.weight, made.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(made, name, buffer)
        made.ranks = ranks
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the rows by mean and variance of all processes'."""
        if not self.training:
            return super().forward(x)
        sums = _sum(torch.cat([x.sum(dim=0), x.new_full((1,), len(x))]), self.ranks)
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centered = x - mean
        variance = _sum(centered.square().sum(dim=0), self.ranks) / n
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = variance * (n / (n - 1))
            for kept, now in ((self.running_mean, mean), (self.running_var, unbiased)):
                if kept is not None:
                    kept.lerp_(now.to(kept.dtype), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return centered * torch.rsqrt(variance + self.eps) * self.weight + self.bias


def _sum(tensor: Tensor, ranks: Ranks) -> Tensor:
    """Add a tensor up over all processes, with gradients."""
    summed: Tensor = _Sum.apply(tensor, ranks)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """A sum over processes: each part's gradient is the sum of what all of them have for it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        """Add up."""
        ctx.ranks = ranks
        return ranks.sum(tensor.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Add the gradients up."""
        return ctx.ranks.sum(grad.clone()), None


@contextmanager
def norms_over_ranks(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Have the batch norms of a model see the rows of all processes in a with block."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if ranks.size > 1 and isinstance(child, nn.BatchNorm1d)
    ]
    for parent, name, norm in found:
        setattr(parent, name, RankedBatchNorm.of(norm, ranks))
    try:
        yield
    finally:
        for parent, name, norm in found:
            setattr(parent, name, norm.train(getattr(parent, name).training))
