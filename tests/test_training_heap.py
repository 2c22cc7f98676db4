"""Memory that was freed goes back to the system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ulmfit_fast.training import heap
from ulmfit_fast.training.heap import EVERY_S, Heap

STATM = Path("/proc/self/statm")


def resident_mib() -> float:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(heap.find_trim() is None, reason="no glibc here")
def test_pages_between_what_is_still_in_use_are_given_back() -> None:
    # Below glibc's least size for a mapping of its own, so all of it is of the heap.
    pairs = [(torch.ones(25_000), torch.ones(16)) for _ in range(2_000)]
    kept = [small for _, small in pairs]
    now = [0.0]
    ours = Heap(clock=lambda: now[0])
    del pairs
    before = resident_mib()
    ours.trim_if_due()
    assert resident_mib() > before - 20  # not yet due
    now[0] = EVERY_S
    ours.trim_if_due()
    assert resident_mib() < before - 100
    assert all(bool((small == 1).all()) for small in kept)


def test_it_is_done_as_often_as_said() -> None:
    times: list[float] = []
    now = 0.0
    ours = Heap(lambda: times.append(now), lambda: now)
    for now in range(100):  # noqa: B007
        ours.trim_if_due()
    assert times == [EVERY_S, 2 * EVERY_S, 3 * EVERY_S]


def test_another_c_library_has_nothing_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert heap.find_trim() is None
    Heap().trim_if_due()
