"""Times of calls in turns, A B C A B C: so the machine's drift falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], object]

LEAST_ROUNDS, MOST_ROUNDS = 3, 60
#: Calls of each before the rounds: they load libraries, fill caches and pack weights.
N_WARM = 1


@dataclass(frozen=True)
class Spread:
    """Some measurements of one thing: the middle one, and where the middle 60 % lie."""

    p20: float
    p50: float
    p80: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        p20, _, _, p80 = statistics.quantiles(values, n=5, method="inclusive")
        return cls(p20, statistics.median(values), p80, len(values))


def call_ms(call: Call, device: torch.device) -> float:
    """Return the time of one call: on a GPU between two of its events, else by the wall clock."""
    if device.type != "cuda":
        start_s = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start_s)
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def round_s(calls: Mapping[str, Call], device: torch.device) -> float:
    """Return the wall time of one round of all calls."""
    start_s = time.perf_counter()
    for call in calls.values():
        call_ms(call, device)
    return time.perf_counter() - start_s


def in_turns(
    calls: Mapping[str, Call], seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Return the times of each call in milliseconds, one for each round.

    Rounds go on until the time is over; there are at least three and at most sixty.

    Args:
        calls: by name.
        seconds: to spend on the rounds.
        device: where they run.
    """
    for _ in range(N_WARM):
        for call in calls.values():
            call_ms(call, device)
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    end_s = time.perf_counter() + seconds
    for n in range(MOST_ROUNDS):
        if n >= LEAST_ROUNDS and time.perf_counter() > end_s:
            break
        for name, call in calls.items():
            times_ms[name].append(call_ms(call, device))
    return times_ms


def ratio(ours_ms: Sequence[float], peer_ms: Sequence[float]) -> Spread:
    """Return how many times as long a peer takes as ours, within a round."""
    return Spread.of([peer / ours for ours, peer in zip(ours_ms, peer_ms, strict=True)])
