"""How a case is timed and what is recorded: one JSON a run, in the project's own schema."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import machine
import pytest
import torch

SCHEMA = 1
QUICK = {"benchmark_max_time": 0.02, "benchmark_min_rounds": 2, "benchmark_warmup": False}
# One after another, so that the machine's drift falls on all implementations alike.
REPEATS = (1, 2)
N_EVENT_SAMPLES = 50


@dataclass(frozen=True)
class Case:
    """One implementation of one operation at one size.

    Args:
        op: operation, without the namespace.
        mode: "forward", "backward" or "step".
        impl: "ulmfit_fast", "torch" (what a user would write instead) or "reference".
        what: the expression that is timed.
        dtype: storage type.
        sizes: legend letter -> size.
        n_bytes: bytes that must be read and written.
        error: distance from the exact result, from the check before the timing; None if random.
    """

    op: str
    mode: str
    impl: str
    what: str
    dtype: torch.dtype
    sizes: dict[str, int]
    n_bytes: int
    error: float | None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="a few rounds a case: does it still run?")
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where to measure")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick"):
        for name, value in QUICK.items():
            setattr(config.option, name, value)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(params=REPEATS, ids=lambda n: f"repeat{n}")
def measure(
    request: pytest.FixtureRequest, benchmark: Any, device: str
) -> Callable[[Case, Callable[[], object]], None]:
    """Return the function that times a call and notes the case."""

    def run(case: Case, call: Callable[[], object]) -> None:
        def timed() -> None:
            call()
            machine.synchronize(device)

        extra = {**asdict(case), "dtype": str(case.dtype).removeprefix("torch.")}
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            peak = torch.cuda.max_memory_allocated() - before
            extra |= {"peak_mib": round(peak / 2**20, 1), "event_ms": event_time_ms(call)}
        benchmark.extra_info.update(extra, repeat=request.param)
        benchmark(timed)

    return run


def event_time_ms(call: Callable[[], object]) -> float:
    """Return the median time of a call on the GPU's own clock."""
    samples = []
    for _ in range(N_EVENT_SAMPLES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end))
    return statistics.median(samples)


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, object]:
    return machine.describe(config.getoption("--device"))


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, object]:
    return machine.origin()


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """Replace pytest-benchmark's record by ours, the repeats of a case merged."""
    info, origin = output_json["machine_info"], output_json["commit_info"]
    merged: dict[str, list[Any]] = {}
    for bench in benchmarks:
        key = {k: v for k, v in bench.extra_info.items() if k not in ("repeat", "event_ms")}
        merged.setdefault(repr(key), []).append(bench)
    cases = [record(group, info["copy_gb_per_s"] * 1e9) for group in merged.values()]
    quick = bool(config.getoption("--quick"))
    output_json.clear()
    output_json.update(schema=SCHEMA, **origin, quick=quick, machine=info, cases=cases)


def record(repeats: list[Any], copy_rate: float) -> dict[str, Any]:
    """Return the JSON of one case from its repeats."""
    times_ms = sorted(1e3 * t for bench in repeats for t in bench.stats.data)
    medians = [1e3 * statistics.median(bench.stats.data) for bench in repeats]
    p20, p50, p80 = (times_ms[int(q * (len(times_ms) - 1))] for q in (0.2, 0.5, 0.8))
    case = {k: v for k, v in repeats[0].extra_info.items() if k != "repeat"}
    floor_ms = 1e3 * case["n_bytes"] / copy_rate
    return {
        **case,
        "time_ms": {"p20": p20, "p50": p50, "p80": p80, "n": len(times_ms)},
        "repeat_p50_ms": medians,
        "floor_ms": floor_ms,
        "floor_fraction": floor_ms / p50,
    }
