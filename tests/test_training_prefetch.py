"""Batches made ahead: order, errors, reuse of memory and an early end, with copies on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ulmfit_fast.training.prefetch import CudaCopies, prefetch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
Tensors = tuple[Tensor, ...]


class LateCopies:
    """A device whose copies are made when they must be ready, no sooner: from reused memory."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.buffers: list[Tensor] = []
        self.threads: set[int] = set()

    def host_buffer(self, n: int, dtype: torch.dtype) -> Tensor:
        self.buffers.append(torch.full((n,), -1, dtype=dtype))
        return self.buffers[-1]

    def start(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        self.events.append(f"start {int(tensors[0].flatten()[0])}")
        self.threads.add(threading.get_ident())
        return tuple(torch.full_like(t, -2) for t in tensors), tensors

    def use(self, tensors: Tensors, end: Tensors) -> None:
        self.events.append(f"use {int(end[0].flatten()[0])}")
        for copy, tensor in zip(tensors, end, strict=True):
            copy.copy_(tensor)

    def finish(self, end: Tensors) -> None:
        self.events.append(f"finish {int(end[0].flatten()[0])}")


def batches_of(lengths: list[int]) -> Iterator[Tensors]:
    for i, length in enumerate(lengths):
        yield torch.full((2, length), i), torch.full((length,), i, dtype=torch.int32)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=12))
def test_batches_come_in_order_whatever_their_sizes(lengths: list[int]) -> None:
    copies = LateCopies()
    found = list(prefetch(batches_of(lengths), CUDA, tuple, copies))
    assert len(found) == len(lengths)
    for (batch, tensors), expected in zip(found, batches_of(lengths), strict=True):
        for host, on_device, wanted in zip(batch, tensors, expected, strict=True):
            assert torch.equal(host, wanted)
            assert torch.equal(on_device, wanted)
            assert on_device.dtype == wanted.dtype
    assert copies.threads <= {threading.get_ident()}


def test_the_next_copy_begins_before_a_batch_is_used() -> None:
    copies = LateCopies()
    list(prefetch(batches_of([4, 4, 4]), CUDA, tuple, copies))
    assert copies.events == [
        *("start 0", "start 1", "use 0", "finish 0"),
        *("start 2", "use 1", "finish 1", "use 2", "finish 2"),
    ]


def test_memory_of_the_host_is_reused() -> None:
    copies = LateCopies()
    list(prefetch(batches_of([8, 9, 7, 10] * 30), CUDA, tuple, copies))
    assert len(copies.buffers) <= 2 * 3 * 2  # of two tensors in three slots, grown once


def test_only_some_tensors_go_to_the_device() -> None:
    found = prefetch(batches_of([3]), CUDA, lambda batch: batch[1:], LateCopies())
    ((batch, tensors),) = found
    assert len(batch) == 2
    assert [t.tolist() for t in tensors] == [[0, 0, 0]]


def test_an_error_comes_after_the_batches_before_it() -> None:
    def broken() -> Iterator[Tensors]:
        yield from batches_of([4, 4, 4, 4])
        raise ValueError("batch 4 is broken")

    seen = []
    ahead = prefetch(broken(), CUDA, tuple, LateCopies())
    for _ in range(4):
        batch, _ = next(ahead)
        seen.append(int(batch[0][0, 0]))
    with pytest.raises(ValueError, match="batch 4 is broken"):
        next(ahead)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("n_used", [0, 1, 3])
def test_an_early_end_stops_the_thread_and_closes_the_batches(n_used: int) -> None:
    is_closed = threading.Event()
    n_made = 0

    def endless() -> Iterator[Tensors]:
        nonlocal n_made
        try:
            while True:
                n_made += 1
                yield from batches_of([4])
        finally:
            is_closed.set()

    ahead = prefetch(endless(), CUDA, tuple, LateCopies())
    for _ in range(n_used):
        next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    assert is_closed.is_set() == (n_used > 0)
    assert n_made <= n_used + 4
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_a_cpu_gets_the_batches_themselves_without_a_thread() -> None:
    made_in = set()

    def noted() -> Iterator[Tensors]:
        made_in.add(threading.get_ident())
        yield from batches_of([4, 5])

    for batch, tensors in prefetch(noted(), CPU, tuple):
        assert all(a is b for a, b in zip(batch, tensors, strict=True))
    assert made_in == {threading.get_ident()}


@pytest.mark.gpu
def test_a_gpu_gets_what_was_made(device: torch.device) -> None:
    lengths = [70, 65, 80, 5] * 20
    found = list(prefetch(batches_of(lengths), device, tuple, CudaCopies(device)))
    for (_, tensors), expected in zip(found, batches_of(lengths), strict=True):
        for on_device, wanted in zip(tensors, expected, strict=True):
            assert on_device.device.type == "cuda"
            assert torch.equal(on_device.cpu(), wanted)
