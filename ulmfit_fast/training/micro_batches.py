"""What a batch does that does not fit into the GPU's memory: it runs some rows at a time.

The update is that of the whole batch, to rounding: gradients of the parts add up, each weighted by
its share of the mean. The classifier's batch norm sees the pooled features of all documents, so its
batches run twice: part by part for the features, each part's graph freed, then for the gradient
(Gao, Zhang, Han, Callan 2021, arXiv:2101.06983). Every part draws its own masks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ulmfit_fast import functional
from ulmfit_fast.chunks import plan_chunks
from ulmfit_fast.encoder import EncoderState
from ulmfit_fast.errors import TrainingError
from ulmfit_fast.model import LossParts
from ulmfit_fast.training.snapshot import generators, set_generators

if TYPE_CHECKING:
    from ulmfit_fast.training.steps import Task
    from ulmfit_fast.training.tasks import ClassifierTask, LanguageModelTask

T = TypeVar("T")


def tell(message: str) -> None:
    """Warn as Python does."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def parts_of(n_rows: int, most: int) -> Iterator[slice]:
    """Yield slices of at most so many rows, one after the other."""
    for first in range(0, n_rows, most):
        yield slice(first, min(first + most, n_rows))


def peak_of(device: torch.device) -> str:
    """Return the most memory that tensors had, for a message; empty where nobody counts."""
    if device.type != "cuda":
        return ""
    peak, whole = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
    return f" (peak {peak / 2**30:.1f} of {whole / 2**30:.1f} GiB)"


def rows_of_state(state: EncoderState | None, part: slice) -> EncoderState | None:
    """Return the state of some rows."""
    return None if state is None else [(h[part], c[part]) for h, c in state]


def join_states(states: Sequence[EncoderState]) -> EncoderState:
    """Return the state of all rows from those of the parts."""
    if len(states) == 1:
        return states[0]
    return [
        (torch.cat([h for h, _ in layer]), torch.cat([c for _, c in layer]))
        for layer in zip(*states, strict=True)
    ]


class RowLimit:
    """How many rows of a batch may run at a time; halved whenever memory runs out.

    Args:
        what: runs, for messages.
        device: whose memory it is.
        warn: told once when a batch had to be cut.

    Attributes:
        rows: at a time; None for whole batches.
    """

    def __init__(self, what: str, device: torch.device, warn: Callable[[str], None] = tell) -> None:
        self.what, self.device, self.warn = what, device, warn
        self.rows: int | None = None
        self._has_told = False

    def of(self, n_rows: int) -> int:
        """Return how many rows of a batch of n_rows run at a time."""
        return min(self.rows or n_rows, n_rows)

    def lower(self, n_rows: int) -> None:
        """Halve the rows at a time, after a batch of n_rows ran out of memory.

        Raises:
            TrainingError: one row was too much.
        """
        before = self.of(n_rows)
        if before == 1:
            raise TrainingError(
                f"{self.what}: out of memory with a single row{peak_of(self.device)}; end what "
                "else uses the GPU, or take a smaller --size or shorter texts"
            )
        self.rows = before // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def tell(self, n_rows: int, so: str) -> None:
        """Say once that batches of n_rows are cut, and what that does."""
        if not self._has_told:
            self._has_told = True
            self.warn(
                f"{self.what}: out of memory with {n_rows} rows at once{peak_of(self.device)}; from"
                f" here on {self.of(n_rows)} at a time, {so}; --batch-size {self.of(n_rows)} would "
                "fit without that"
            )

    def each(self, n_rows: int, call: Callable[[slice], T]) -> list[T]:
        """Return what a call makes of the rows, in parts where they do not fit at once.

        Args:
            n_rows: of the batch.
            call: of some of them; made again with fewer where it raises torch.OutOfMemoryError.
        """
        was_cut = False
        while True:
            try:
                made = [call(part) for part in parts_of(n_rows, self.of(n_rows))]
                break
            except torch.OutOfMemoryError:
                was_cut = True  # the rest outside, where no traceback holds what was made
            self.lower(n_rows)
        if was_cut:
            self.tell(n_rows, "with the same results to rounding")
        return made


class MicroBatches:
    """Takes the gradient of a batch, in parts where it does not fit into memory.

    Nothing is averaged over processes here: whoever does so, does it after `gradients`, once a
    batch. RankedSteps, where several processes train, cuts no batch.

    Args:
        task: whose batches.

    Attributes:
        limit: rows at a time.
        may_retry: False where a step must not begin anew, as in the capture of a CUDA graph.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.limit = RowLimit("training", task.device)
        self.may_retry = True

    def gradients(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None, undo: Callable[[], None]
    ) -> tuple[LossParts, EncoderState | None]:
        """Leave the gradient of a batch's mean loss in the parameters, which have none before.

        A loss that is not finite leaves a gradient that is not.

        Args:
            inputs: of the batch; rows first.
            state: what the batch before left.
            undo: removes gradients and what else an attempt has changed.

        Returns:
            loss: detached.
            state: after the batch.

        Raises:
            TrainingError: a single row does not fit.
        """
        if not self.may_retry:
            return self._once(inputs, state)
        n_rows, before = len(inputs[0]), generators(self.task.device)
        was_cut = False
        while True:
            try:
                found = self._once(inputs, state)
                break
            except torch.OutOfMemoryError:
                was_cut = True  # the rest outside, where no traceback holds what was made
            undo()
            set_generators(before, self.task.device)
            self.limit.lower(n_rows)
        if was_cut:
            self.limit.tell(n_rows, f"with the same update of {n_rows} rows, which takes longer")
        return found

    def _once(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None
    ) -> tuple[LossParts, EncoderState | None]:
        """Take the gradient with as many rows at a time as the limit says."""
        rows = self.limit.of(len(inputs[0]))
        if rows < len(inputs[0]):
            return self.task.gradients_in_parts(inputs, state, rows)
        parts, state = self.task.loss(inputs, state)
        total = parts.total.detach()
        # 1, or NaN where the loss is not finite: then no gradient is, and the optimizer skips them.
        torch.autograd.backward(parts.total, total * 0 + 1)
        return LossParts(total, parts.cross_entropy), state


def language_model_gradients(
    task: LanguageModelTask, inputs: tuple[Tensor, ...], state: EncoderState | None, rows: int
) -> tuple[LossParts, EncoderState]:
    """Take the gradient of a batch of streams; every token counts, so a part's share is its rows'.

    Args:
        task: of the batch.
        inputs: ids and targets; each [B, T].
        state: of all B streams, or None.
        rows: at a time.
    """
    ids, targets = inputs
    zero = torch.zeros((), device=ids.device)
    total, cross_entropy = zero, zero
    states: list[EncoderState] = []
    for part in parts_of(len(ids), rows):
        share = (part.stop - part.start) / len(ids)
        loss, after = task.loss((ids[part], targets[part]), rows_of_state(state, part))
        found = loss.total.detach()
        torch.autograd.backward(loss.total, (found * 0 + 1) * share)
        total, cross_entropy = total + found * share, cross_entropy + loss.cross_entropy * share
        states.append(after)
    return LossParts(total, cross_entropy), join_states(states)


def classifier_gradients(task: ClassifierTask, inputs: tuple[Tensor, ...], rows: int) -> LossParts:
    """Take the gradient of a batch of documents, whose head sees them all at once.

    Args:
        task: of the batch.
        inputs: ids [B, T], lengths [B] on the CPU, labels [B].
        rows: at a time.
    """
    ids, lengths, labels, *_ = inputs  # alone: in several processes no batch is cut
    model, device = task.model, ids.device
    plan = plan_chunks(lengths, ids.shape[1], model.bptt, model.max_len)

    def encode(part: slice) -> tuple[Tensor, Tensor]:
        """Return features and penalty of some rows, counted from the longest down."""
        with task.precision.computing():
            pooled, output = model.encode(ids, lengths, part)
            _, penalty = functional.activation_regularization(
                output, task.config.alpha, task.config.beta
            )
        return pooled, penalty * ((part.stop - part.start) / len(ids))

    parts = list(parts_of(len(ids), rows))
    starts, features = [], []
    penalty, is_trained = torch.zeros((), device=device), False
    for part in parts:
        starts.append(generators(device))
        pooled, of_part = encode(part)
        is_trained = pooled.requires_grad
        features.append(pooled.detach())
        penalty = penalty + of_part.detach()
        del pooled, of_part
    leaf = torch.cat(features).requires_grad_(is_trained)
    with task.precision.computing():
        logits = model.classify(leaf[torch.tensor(plan.place, device=device)])
        cross_entropy = nn.functional.cross_entropy(logits.float(), labels)
    total = cross_entropy.detach() + penalty
    factor = total * 0 + 1
    torch.autograd.backward(cross_entropy, factor)
    if is_trained and leaf.grad is not None:
        end = generators(device)
        for part, start in zip(parts, starts, strict=True):
            set_generators(start, device)
            pooled, of_part = encode(part)
            torch.autograd.backward([pooled, of_part], [leaf.grad[part], factor])
        set_generators(end, device)
    return LossParts(total, cross_entropy.detach())
