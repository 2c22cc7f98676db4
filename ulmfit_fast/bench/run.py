"""A bench run: check, choose sizes that fit into the time, measure in turns."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ulmfit_fast.bench import machine
from ulmfit_fast.bench.clock import LEAST_ROUNDS, N_WARM, Call, Spread, in_turns, ratio, round_s
from ulmfit_fast.bench.kinds import OURS, Check, Kind, Size, name_of
from ulmfit_fast.bench.language_model import STEP
from ulmfit_fast.bench.operations import LOSS, LSTM, OPTIMIZER
from ulmfit_fast.training.precision import why_no_bf16

KINDS = (LSTM, OPTIMIZER, LOSS, STEP)
#: Share of the time that checks and the choice of sizes take.
OVERHEAD = 0.3
#: Of a kind's time, what its first dtype has, float32: that of the others is faster, and they are
#: measured at the same size, so that dtypes can be compared.
FIRST_SHARE = 0.7
#: Share of free memory that a measurement may take.
MEMORY_SHARE = 0.5

#: Told (what is measured now, parts done, parts).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """One kind in one dtype.

    Attributes:
        kind: its name.
        title: for people.
        dtype: "float32" or "bfloat16".
        size: letter to size.
        check: of our results.
        times_ms: of each implementation, ours first; empty where the check failed.
        ratios: of each peer: its time over ours, within a round.
    """

    kind: str
    title: str
    dtype: str
    size: dict[str, int]
    check: Check
    times_ms: dict[str, Spread] = field(default_factory=dict)
    ratios: dict[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What a run found.

    Attributes:
        machine: see machine.describe.
        is_busy: whether other work made times longer when the run began.
        seconds: that the run took.
        measured: kinds and dtypes, in order.
        left_out: what was not measured, each with its reason.
    """

    machine: dict[str, Any]
    is_busy: bool
    seconds: float
    measured: list[Measured]
    left_out: list[str]

    @property
    def wrong(self) -> list[Measured]:
        """What was not timed because our result is wrong."""
        return [each for each in self.measured if not each.check.is_right]


def run_bench(
    device: torch.device,
    *,
    seconds: float = 60.0,
    kinds: Sequence[Kind] = KINDS,
    progress: Progress | None = None,
) -> Bench:
    """Measure every kind in every dtype that the hardware has.

    Results are compared with float64 first; what is wrong is not timed. Implementations run in
    turns, and ratios are taken within a round.

    Args:
        device: where.
        seconds: that it should take, about.
        kinds: what to measure.
        progress: told before each part.
    """
    began = time.perf_counter()
    facts = machine.describe(device)
    no_bf16 = why_no_bf16(device)
    measured: list[Measured] = []
    left_out: list[str] = []
    n_parts = sum(len(kind.dtypes) for kind in kinds)
    shares = sum(kind.share for kind in kinds)
    with machine.whole_float32(), _own_generator(device):
        for kind in kinds:
            size: Size | None = None
            for n, dtype in enumerate(kind.dtypes):
                if progress is not None:
                    progress(
                        f"{kind.name} {name_of(dtype)}", len(measured) + len(left_out), n_parts
                    )
                if dtype == torch.bfloat16 and no_bf16 is not None:
                    left_out.append(f"{kind.title}, bfloat16: {no_bf16}")
                    continue
                share = 1.0 if len(kind.dtypes) == 1 else (FIRST_SHARE, 1 - FIRST_SHARE)[n > 0]
                budget_s = (1 - OVERHEAD) * seconds * share * kind.share / shares
                found = _measure(kind, dtype, device, budget_s, size)
                if isinstance(found, str):
                    left_out.append(f"{kind.title}, {name_of(dtype)}: {found}")
                    continue
                measured.append(found)
                size = Size(**found.size) if found.size else None
    busy = machine.is_busy(facts["load"], facts["n_cores"])
    return Bench(facts, busy, round(time.perf_counter() - began, 1), measured, left_out)


def _measure(
    kind: Kind, dtype: torch.dtype, device: torch.device, budget_s: float, size: Size | None
) -> Measured | str:
    """Return times of a kind at a size, or at one that fits, or why there are none."""
    torch.manual_seed(1)
    check = kind.check(dtype, device)
    if not check.is_right:
        return Measured(kind.name, kind.title, name_of(dtype), {}, check)
    if size is None:
        chosen = choose_size(kind, dtype, device, budget_s)
        if isinstance(chosen, str):
            return chosen
        size, calls = chosen
    else:
        calls = kind.build(size, dtype, device)
    times = in_turns(calls, _time_of_rounds(budget_s), device)
    gc.collect()  # what one kind held must not count as memory of the next
    return Measured(
        kind.name, kind.title, name_of(dtype), size.named(), check,
        {name: Spread.of(values) for name, values in times.items()},
        {name: ratio(times[OURS], values) for name, values in times.items() if name != OURS},
    )  # fmt: skip


def choose_size(
    kind: Kind, dtype: torch.dtype, device: torch.device, budget_s: float
) -> tuple[Size, Mapping[str, Call]] | str:
    """Return the largest size whose rounds fit into a time with its calls, or why none does.

    From the smallest on the next larger one is tried for a round, as long as it is likely to fit.
    """
    free = MEMORY_SHARE * machine.free_bytes(device)
    fitting = [size for size in reversed(kind.sizes) if kind.n_bytes(size) <= free]
    if not fitting:
        return "there is not enough free memory"
    n_rounds = LEAST_ROUNDS + N_WARM
    chosen: tuple[Size, Mapping[str, Call]] | None = None
    tried: list[tuple[float, float]] = []  # cost, seconds of a round
    for size in fitting:
        cost = kind.cost(size)
        if chosen is not None and n_rounds * expected_s(tried, cost) > budget_s:
            break
        calls = kind.build(size, dtype, device)
        if not tried:
            round_s(calls, device)  # loads libraries
        tried.append((cost, round_s(calls, device)))
        if n_rounds * tried[-1][1] > (budget_s if chosen else 2 * budget_s):
            break
        chosen = size, calls
    return chosen or "it does not fit into the time: give more --seconds"


def expected_s(tried: Sequence[tuple[float, float]], cost: float) -> float:
    """Return how long a round of a larger size is likely to take.

    Args:
        tried: (cost, seconds) of the smaller ones, the smallest first.
        cost: of the larger one.

    Returns:
        seconds: on the line through the last two; behind a single one, whose time is mostly that of
            starting threads and kernels, it grows with the root of the cost.
    """
    last_cost, last_s = tried[-1]
    if len(tried) == 1:
        return last_s * math.sqrt(cost / last_cost)
    before_cost, before_s = tried[-2]
    slope = max(0.0, last_s - before_s) / (last_cost - before_cost)
    return last_s + slope * (cost - last_cost)


def _time_of_rounds(budget_s: float) -> float:
    return budget_s * LEAST_ROUNDS / (LEAST_ROUNDS + N_WARM)


@contextmanager
def _own_generator(device: torch.device) -> Iterator[None]:
    """Leave the caller's generators as they are."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
