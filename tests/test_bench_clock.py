"""The clock of the bench: turns, spreads, and a GPU's events."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ulmfit_fast.bench import clock
from ulmfit_fast.bench.clock import Spread, call_ms, in_turns, ratio

CPU = torch.device("cpu")


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=40))
def test_a_spread_holds_the_middle(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.p50 == statistics.median(values)
    exact = min(values), spread.p20, spread.p50, spread.p80, max(values)
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(exact))
    assert spread.n == len(values)


def test_a_spread_holds_three_fifths() -> None:
    assert Spread.of(list(range(101))) == Spread(20, 50, 80, 101)


def test_calls_take_turns_and_each_warms_up() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ABC"}
    times = in_turns(calls, 0.0, CPU)
    assert order == list("ABC") * 4  # once before the three rounds
    assert {name: len(each) for name, each in times.items()} == {"A": 3, "B": 3, "C": 3}


class FakeTime:
    """A clock that moves when a call says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s

    def take(self, seconds: float) -> None:
        self.now_s += seconds


def test_rounds_fill_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime()
    monkeypatch.setattr(clock, "time", fake)
    calls = {"A": lambda: fake.take(0.25), "B": lambda: fake.take(0.75)}
    times = in_turns(calls, 6.5, CPU)
    assert times == {"A": [250.0] * 7, "B": [750.0] * 7}
    assert len(in_turns({"A": lambda: fake.take(100.0)}, 5.0, CPU)["A"]) == 3
    assert len(in_turns({"A": lambda: None}, 5.0, CPU)["A"]) == 60


def test_ratios_are_taken_within_a_round() -> None:
    """Both get twice as slow half way through: no ratio is anything but 3."""
    assert ratio([1, 1, 2, 2], [3, 3, 6, 6]) == Spread(3, 3, 3, 4)


def test_a_gpu_is_timed_by_its_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.name = "start" if not log else "end"
            log.append(f"make {self.name}")

        def record(self) -> None:
            log.append(f"record {self.name}")

        def synchronize(self) -> None:
            log.append(f"wait for {self.name}")

        def elapsed_time(self, end: Any) -> float:
            assert end is not self
            return 12.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert call_ms(lambda: log.append("call"), torch.device("cuda")) == 12.5
    assert log[2:] == ["record start", "call", "record end", "wait for end"]
