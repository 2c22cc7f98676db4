"""Batches to a GPU while it works on the batch before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

# A batch that is filled, one whose copy runs, and one that the model reads.
_SLOTS = 3

Batch = TypeVar("Batch")
Tensors = tuple[Tensor, ...]


class Copies(Protocol):
    """Copies from the host to a device; all calls come from the consumer's thread."""

    def host_buffer(self, n: int, dtype: torch.dtype) -> Tensor:
        """Return host memory that the device can read by itself; shape [n]."""

    def start(self, tensors: Tensors) -> tuple[Tensors, Any]:
        """Begin to copy tensors of the host, and return the copies and what tells their end."""

    def use(self, tensors: Tensors, end: Any) -> None:
        """Have all work from here on wait for copies."""

    def finish(self, end: Any) -> None:
        """Wait on the host until copies have been made."""


class CudaCopies:
    """Copies from pinned memory on a stream of their own.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def host_buffer(self, n: int, dtype: torch.dtype) -> Tensor:
        """Return pinned memory."""
        return torch.empty(n, dtype=dtype, pin_memory=True)

    def start(self, tensors: Tensors) -> tuple[Tensors, Any]:
        """Copy on the side stream, which waits for nothing; their end is an event of it."""
        with torch.cuda.stream(self._stream):
            copies = tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)
            return copies, self._stream.record_event()

    def use(self, tensors: Tensors, end: Any) -> None:
        """Have the current stream wait for the event, and keep the memory until it is through."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(end)
        for tensor in tensors:
            tensor.record_stream(stream)

    def finish(self, end: Any) -> None:
        """Wait for the event: a copy that began a batch ago."""
        end.synchronize()


class _Slot:
    """Host memory of one batch, reused and grown where a batch is larger."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, torch.dtype], Tensor] = {}

    def views(self, tensors: Tensors) -> Tensors | None:
        """Return memory for tensors of these shapes; None if there is too little."""
        found = []
        for i, tensor in enumerate(tensors):
            buffer = self._buffers.get((i, tensor.dtype))
            if buffer is None or buffer.numel() < tensor.numel():
                return None
            found.append(buffer[: tensor.numel()].view(tensor.shape))
        return tuple(found)

    def grow(self, tensors: Tensors, copies: Copies) -> None:
        """Make room for tensors of these shapes, and a quarter more."""
        for i, tensor in enumerate(tensors):
            key, n = (i, tensor.dtype), tensor.numel()
            if key not in self._buffers or self._buffers[key].numel() < n:
                self._buffers[key] = copies.host_buffer(n + n // 4, tensor.dtype)


def prefetch(
    batches: Iterable[Batch],
    device: torch.device,
    tensors_of: Callable[[Batch], Tensors],
    copies: Copies | None = None,
) -> Iterator[tuple[Batch, Tensors]]:
    """Yield batches with some of their tensors on a device, in their order.

    For a GPU a thread makes the batches that come next and writes them into pinned memory, while
    the copy of the next one runs on a stream of its own. The thread makes no CUDA call, so that
    a CUDA graph may be captured meanwhile. For a CPU nothing is copied, and there is no thread:
    a batch takes less than a thousandth of a step there.

    What making a batch raises is raised here, at its place. To end early, close the generator.

    Args:
        batches: read by the thread alone, some ahead.
        device: where the tensors go.
        tensors_of: the tensors of a batch that are wanted there.
        copies: how to copy; None chooses by the device.
    """
    if copies is None and device.type != "cuda":
        for batch in batches:
            yield batch, tensors_of(batch)
        return
    yield from _ahead(iter(batches), tensors_of, copies or CudaCopies(device))


def _ahead(
    batches: Iterator[Batch], tensors_of: Callable[[Batch], Tensors], copies: Copies
) -> Iterator[tuple[Batch, Tensors]]:
    def make(slot: _Slot) -> tuple[_Slot, Batch, Tensors | None] | None:
        for batch in batches:
            tensors = tensors_of(batch)
            views = slot.views(tensors)
            for view, tensor in zip(views or (), tensors, strict=False):
                view.copy_(tensor)
            return slot, batch, views
        return None

    def start(made: tuple[_Slot, Batch, Tensors | None]) -> tuple[_Slot, Batch, Tensors, Any]:
        slot, batch, views = made
        if views is None:
            tensors = tensors_of(batch)
            slot.grow(tensors, copies)
            views = slot.views(tensors) or ()
            for view, tensor in zip(views, tensors, strict=True):
                view.copy_(tensor)
        return slot, batch, *copies.start(views)

    thread = ThreadPoolExecutor(1, "batches")
    making: deque[Future[tuple[_Slot, Batch, Tensors | None] | None]] = deque()
    making.extend(thread.submit(make, _Slot()) for _ in range(_SLOTS))
    started: deque[tuple[_Slot, Batch, Tensors, Any]] = deque()
    try:
        while making or started:
            # The copy of the next batch begins before the model gets this one.
            while making and len(started) < 2:
                failed = making[0].exception() is not None
                if failed and started:
                    break  # first the batches before it
                made = making.popleft().result()
                if made is not None:
                    started.append(start(made))
            if started:
                slot, batch, tensors, end = started.popleft()
                copies.use(tensors, end)
                yield batch, tensors
                copies.finish(end)
                making.append(thread.submit(make, slot))
    finally:
        thread.shutdown(cancel_futures=True)
        close = getattr(batches, "close", None)
        if close is not None:
            close()
