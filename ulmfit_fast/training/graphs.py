"""Training steps as CUDA graphs: one launch replays forward pass, loss, backward pass and update.

A replay computes what the eager step would, bit for bit:

- the same kernels run in the same order on the same values: batch, state and losses are copied in
  and out of memory that stays, and h and c of an epoch's beginning are zeros either way;
- seeds of masks are drawn inside from the device's generator. A capture notes how far each draw
  moves the generator's offset; a replay starts at the offset of now and moves it by the sum, so
  graphs and eager steps that alternate draw what eager steps alone would;
- learning rates, decays and betas are in memory that `optimizer.replay` brings up to date;
- gradients are None before every step, so each is written, never added to what was there;
- a capture runs nothing, and every step before it is a step of the training.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ulmfit_fast.errors import TrainingError
from ulmfit_fast.model import EncoderState, LossParts
from ulmfit_fast.optim import LayerwiseAdamW
from ulmfit_fast.training.snapshot import generators, set_generators
from ulmfit_fast.training.steps import Batch, EagerSteps, Reader, Task

#: Steps of a shape that run eagerly first: kernels are compiled for it, the optimizer makes its
#: state, and lengths that come once in a phase are never captured.
EAGER_STEPS = 1
#: Graphs at a time. Lengths drawn from N(70, 5) have some forty values, halves of them as many.
MOST_GRAPHS = 96

Shapes = tuple[torch.Size, ...]


class Recorder(Protocol):
    """What makes graphs; a test's runs on a CPU."""

    def record(
        self, call: Callable[[], None], beside: torch.cuda.CUDAGraph | None
    ) -> torch.cuda.CUDAGraph:
        """Return what does on replay what the call would do now, without doing it.

        Args:
            call: the work; it finds and leaves its tensors in the same memory every time.
            beside: a graph whose memory may be used, as the two never run at once.
        """


class CudaRecorder:
    """Captures on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(
        self, call: Callable[[], None], beside: torch.cuda.CUDAGraph | None
    ) -> torch.cuda.CUDAGraph:
        """Capture; see Recorder.

        Raises:
            TrainingError: the call does what no graph can hold.
        """
        graph = torch.cuda.CUDAGraph()
        pool = None if beside is None else beside.pool()
        # thread_local: another thread may go on to pin the memory of the batches to come.
        capture = torch.cuda.graph(
            graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
        )
        now = torch.cuda.current_stream(self._device)
        try:
            # The stream of now around it: a capture that fails leaves its own behind.
            with torch.cuda.device(self._device), torch.cuda.stream(now), capture:
                call()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]
            raise TrainingError(
                f"a training step cannot be captured as a CUDA graph ({first_line}); train without "
                "--cuda-graphs (cuda_graphs=False)"
            ) from error
        return graph


class Recording(NamedTuple):
    """A graph, and the memory that it reads a batch from."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]


class GraphSteps(EagerSteps):
    """Takes steps by replaying a graph for each shape of batch, the first ones eagerly.

    Args:
        task: what is trained; its state has the same shapes in every batch.
        optimizer: capturable.
        recorder: makes the graphs.
        most: graphs at a time; steps of further shapes stay eager.
    """

    def __init__(
        self, task: Task, optimizer: LayerwiseAdamW, recorder: Recorder, most: int = MOST_GRAPHS
    ) -> None:
        super().__init__(task, optimizer)
        self.recorder = recorder
        self.most = most
        self.n_replayed = 0
        self._n_seen: Counter[Shapes] = Counter()
        self._recordings: dict[Shapes, Recording] = {}
        self._loss = LossParts(*(torch.zeros((), device=task.device) for _ in range(2)))
        # A state dict brings other moments than those that the graphs move. Weak: the optimizer
        # would keep the graphs' memory in a circle.
        forget = weakref.WeakMethod(self.forget)

        def forget_if_alive(_: object) -> None:
            method = forget()
            if method is not None:
                method()

        optimizer.register_load_state_dict_post_hook(forget_if_alive)

    def forget(self) -> None:
        """Drop all graphs: what they hold is no more."""
        self._recordings.clear()
        self._n_seen.clear()

    def start_phase(self) -> None:
        """Drop the graphs: other layers have gradients now."""
        self.forget()

    def start_epoch(self) -> None:
        """Begin the streams of an epoch with a state of zeros, in the memory that graphs read."""
        for tensor in (each for pair in self.state or () for each in pair):
            tensor.zero_()

    def step(self, batch: Batch, read: Reader | None) -> LossParts:
        """Take a step; see EagerSteps. A loss that is not finite comes with gradients that are not.

        The optimizer skips those, so a loss that is read after the replay has not moved the weights
        either.
        """
        if not self.most or self.micro_batches.limit.rows:  # there is no memory for them
            return super().step(batch, read)
        shapes = tuple(tensor.shape for tensor in batch.inputs)
        recording = self._recordings.get(shapes) or self._record_if_due(shapes, batch)
        if recording is None:
            return super().step(batch, read)
        for fixed, tensor in zip(recording.inputs, batch.inputs, strict=True):
            fixed.copy_(tensor, non_blocking=True)
        self.optimizer.replay(recording.graph)
        self.n_replayed += 1
        if read is not None:
            read(self._loss)
        return self._loss

    def _record_if_due(self, shapes: Shapes, batch: Batch) -> Recording | None:
        """Record a step for batches of these shapes once enough were seen."""
        self._n_seen[shapes] += 1
        if self._n_seen[shapes] <= EAGER_STEPS or len(self._recordings) >= self.most:
            return None
        # Outside the graphs' shared memory, in which one graph's results are another's scratch.
        inputs = tuple(tensor.clone() for tensor in batch.inputs)

        def call() -> None:
            parts = EagerSteps.step(self, Batch(inputs, batch.n_tokens), None)
            self._loss.total.copy_(parts.total)
            self._loss.cross_entropy.copy_(parts.cross_entropy)

        self.optimizer.refresh()  # a capture cannot send settings
        beside = next(iter(self._recordings.values()), None)
        before = generators(self.task.device)
        self.micro_batches.may_retry = False  # what begins anew would be in the graph twice
        try:
            graph = self.recorder.record(call, None if beside is None else beside.graph)
        except torch.OutOfMemoryError:
            graph = None  # the rest outside, where no traceback holds what was made
        finally:
            self.micro_batches.may_retry = True
        if graph is None:
            del beside
            self.free()
            set_generators(before, self.task.device)
            limit = self.micro_batches.limit
            limit.warn(f"{limit.what}: no memory for CUDA graphs, so it goes on without them")
            return None
        self._recordings[shapes] = Recording(graph, inputs)
        return self._recordings[shapes]

    def free(self) -> None:
        """Let go of the graphs' memory, too, and make no more of them."""
        super().free()
        self.forget()
        self.most = 0
        if self.task.device.type == "cuda":
            torch.cuda.empty_cache()

    def _carry(self, state: EncoderState) -> None:
        """Copy the state into memory that stays: that of the first."""
        if self.state is None:
            self.state = state
            return
        for kept, new in zip(self.state, state, strict=True):
            for fixed, tensor in zip(kept, new, strict=True):
                fixed.copy_(tensor)
