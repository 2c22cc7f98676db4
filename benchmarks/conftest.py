"""How a case is timed and what is recorded: one JSON a run, in the project's own schema."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import machine
import pytest
import timing
import torch

SCHEMA = 1
QUICK = {"benchmark_warmup": False}
# Repeats stand outside the implementations of a group: A B C A B C, so that the machine's drift
# falls on all of them alike.
REPEATS = (1, 2)
#: Seconds that the rounds of one repeat take together, between MIN_ROUNDS and MAX_ROUNDS of them.
ROUNDS_S = {"cpu": 0.6, "cuda": 0.15}
MIN_ROUNDS, MAX_ROUNDS = 3, 200
#: What names a case; the rest of its record was measured.
IDENTITY = ("op", "mode", "impl", "dtype", "sizes")
#: Cases of this session without a time: {"case", "reason"}.
LEFT_OUT: list[dict[str, str]] = []
STARTED = pytest.StashKey[float]()


@dataclass(frozen=True)
class Case:
    """One implementation of one operation at one size.

    Args:
        op: operation, without the namespace.
        mode: "forward", "forward+backward" or "step".
        impl: "ulmfit_fast", "torch" (what a user would write instead), "reference" or another.
        what: the expression that is timed.
        dtype: storage type.
        sizes: legend letter -> size.
        n_bytes: bytes that must be read and written.
        error: distance from the exact result, from the check before the timing; None if random.
        n_flops: operations of all matrix products; 0 where there is none.
    """

    op: str
    mode: str
    impl: str
    what: str
    dtype: torch.dtype
    sizes: dict[str, int]
    n_bytes: int
    error: float | None
    n_flops: int = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tiny sizes, few rounds: does it run?")
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where to measure")
    parser.addoption("--grid", default="default", choices=("default", "full"), help="which points")
    parser.addoption(
        "--minutes",
        type=float,
        default=8.0,
        help="start no case after so many minutes; the record lists what was left out (0: no end)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    LEFT_OUT.clear()
    machine.use_whole_float32()
    config.stash[STARTED] = time.monotonic()
    if config.getoption("--quick"):
        for name, value in QUICK.items():
            setattr(config.option, name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have all implementations of a group run once before any of them runs again."""
    order: dict[tuple[str, ...], int] = {}

    def key(item: pytest.Item) -> tuple[int, int]:
        parameters = item.callspec.params  # type: ignore[attr-defined]
        names = (n for n in sorted(parameters) if n not in ("impl", "dtype", "measure"))
        group = (item.nodeid.partition("[")[0], *(str(parameters[n]) for n in names))
        return order.setdefault(group, len(order)), parameters["measure"]

    items.sort(key=key)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(params=REPEATS, ids=lambda n: f"repeat{n}")
def measure(
    request: pytest.FixtureRequest, benchmark: Any, device: str, quick: bool
) -> Callable[[Case, Callable[[], object]], None]:
    """Return the function that times a call and notes the case."""
    minutes = request.config.getoption("--minutes")
    if minutes and time.monotonic() - request.config.stash[STARTED] > 60 * minutes:
        pytest.skip(f"out of time: {minutes:g} minutes have passed (--minutes)")

    def run(case: Case, call: Callable[[], object]) -> None:
        def timed() -> None:
            call()
            machine.synchronize(device)

        extra = {**asdict(case), "dtype": str(case.dtype).removeprefix("torch.")}
        call()  # warm: memory is mapped, kernels are compiled
        machine.synchronize(device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        timed()
        seconds = time.perf_counter() - start
        n_rounds = min(max(int(ROUNDS_S[device] / seconds), MIN_ROUNDS), MAX_ROUNDS)
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() - before
            # A graph's memory is set aside when it is captured, out of sight here.
            extra["peak_mib"] = None if "graph" in case.impl else round(peak / 2**20, 1)
            extra["event_times_ms"] = [timing.call_ms(call, device) for _ in range(n_rounds)]
        benchmark.extra_info.update(extra, repeat=request.param)
        benchmark.pedantic(timed, rounds=2 if quick else n_rounds, iterations=1)

    return run


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        case = report.nodeid.partition("::")[2]
        LEFT_OUT.append({"case": case, "reason": reason.removeprefix("Skipped: ")})


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
        key = repr([bench.extra_info[name] for name in IDENTITY])
        merged.setdefault(key, []).append(bench)
    # A case that ran out of time between its repeats has no spread: its second repeat is left out.
    groups = [group for group in merged.values() if len(group) == len(REPEATS)]
    dtypes = sorted({g[0].extra_info["dtype"] for g in groups if g[0].extra_info["n_flops"]})
    device = config.getoption("--device")
    rates = {dtype: machine.gemm_rate(device, getattr(torch, dtype)) for dtype in dtypes}
    info["gemm_tflop_per_s"] = {dtype: round(rate / 1e12, 3) for dtype, rate in rates.items()}
    cases = [record(group, info["copy_gb_per_s"] * 1e9, rates) for group in groups]
    quick = bool(config.getoption("--quick"))
    output_json.clear()
    output_json.update(schema=SCHEMA, **origin, quick=quick, machine=info, cases=cases)
    output_json["left_out"] = LEFT_OUT


def record(repeats: list[Any], copy_rate: float, gemm_rates: dict[str, float]) -> dict[str, Any]:
    """Return the JSON of one case from its repeats."""
    case = {k: v for k, v in repeats[0].extra_info.items() if k not in ("repeat", "event_times_ms")}
    times_ms = [[1e3 * t for t in bench.stats.data] for bench in repeats]
    event_ms = [t for bench in repeats for t in bench.extra_info.get("event_times_ms", ())]
    time_ms = timing.summary([t for repeat in times_ms for t in repeat])
    gemm_rate = gemm_rates.get(case["dtype"]) if case["n_flops"] else None
    return {
        **case,
        "time_ms": time_ms,
        **({"event_ms": timing.summary(event_ms)} if event_ms else {}),
        "repeat_p50_ms": [timing.summary(repeat)["p50"] for repeat in times_ms],
        **timing.floor(case["n_bytes"], case["n_flops"], time_ms["p50"], copy_rate, gemm_rate),
    }
