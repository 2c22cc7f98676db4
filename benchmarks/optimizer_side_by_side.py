"""Time a clipped AdamW step over an AWD-LSTM's five groups, ours and its peers in turns.

    python benchmarks/optimizer_side_by_side.py [--device cuda] [--rounds 15]

writes benchmarks/results/optimizer-side-by-side--<cpu or gpu>--<yyyymmdd>.json and prints a line
for each implementation. All step over the same parameters and gradients of one network, float32,
each with its own moments. Every case runs them one after another, A B C A B C, and ratios are taken
within a round. Right after it the rates of AdamW's memory traffic and of reading are measured, over
arrays of as many elements: the least time of a step is that of 28 bytes a parameter at the one, and
of 4 for the norm at the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bandwidth
import machine
import optimizer_steps as steps
import torch
import turns
from optimizer_steps import IMPLEMENTATIONS, Network, Point, Step
from torch.autograd import DeviceType
from turns import Entry

SCHEMA = 1
CASE = "optimizer-side-by-side"
OURS = "ulmfit_fast"
POINTS = (
    *(Point(V, clips) for V in (60000, 10000) for clips in (True, False)),
    Point(60000, n_frozen=3),
)
QUICK_POINTS = tuple(Point(p.V // 1000, p.clips, p.n_frozen, E=8, H=24) for p in POINTS)
#: Elements of the arrays for the machine's own rates: 256 MiB each.
LARGE = {False: 2**26, True: 2**12}


def launches(step: Step) -> int:
    """Return how many kernels, copies and fills a step has on a GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    found = [e for e in profile.key_averages() if e.device_type == DeviceType.CUDA]
    return sum(event.count for event in found if not event.is_user_annotation)


def count_launches(cases: list[dict[str, Any]], points: Sequence[Point], device: str) -> None:
    """Note the launches of every case, with steps of their own.

    For after all timing: the profiler's hooks into the driver stay once it has run.
    """
    for point in points:
        timed = [case for case in cases if case["case"] == str(point)]
        groups = Network(point, device).groups if timed else []
        for case in timed:
            step = IMPLEMENTATIONS[case["impl"]].build(groups, point.max_grad_norm)
            step()  # makes the state
            case["launches"] = launches(step)


def build_steps(
    network: Network, device: str
) -> tuple[dict[str, Step], dict[str, float], list[dict[str, str]]]:
    """Return step and error of every implementation that passes the check, and the others."""
    found: dict[str, Step] = {}
    errors, left_out = {}, []
    for impl in IMPLEMENTATIONS:
        step, reason = None, steps.why_left_out(impl, network.point, device)
        if reason is None:
            step, errors[impl], reason = steps.build_or_leave_out(impl, network)
        if step is None:
            left_out.append({"case": f"{impl} {network.point}", "reason": str(reason)})
        else:
            found[impl] = step
    return found, errors, left_out


def case_record(impl: str, point: Point, times_ms: list[float]) -> dict[str, Any]:
    """Return what the record says about one implementation, without floors."""
    implementation, times = IMPLEMENTATIONS[impl], turns.times_record(times_ms)
    n_bytes = implementation.n_bytes(point)
    return {
        "op": "layerwise_adamw",
        "mode": "step",
        "impl": impl,
        "what": implementation.what if point.clips else implementation.unclipped,
        "dtype": "float32",
        "sizes": point.sizes(),
        "case": str(point),
        "n_params": point.n_params,
        "n_held": point.n_held,
        "max_grad_norm": point.max_grad_norm,
        "n_frozen": point.n_frozen,
        "n_bytes": n_bytes,
        "gb_per_s": 1e-6 * n_bytes / times["time_ms"]["p50"],
        **times,
    }


def measure_point(
    point: Point,
    rounds: int,
    device: str,
    rates_of: Callable[[int], bandwidth.Rates],
    copy_gb_per_s: float,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, str]]]:
    """Return the cases of one point, ours against each, and what was left out."""
    reason = steps.why_too_large(point, device)
    if reason is not None:
        return [], [], [{"case": str(point), "reason": reason}]
    network = Network(point, device)
    found, errors, left_out = build_steps(network, device)
    del network  # the steps hold its parameters; what it has beside them is not needed any more
    calls: Mapping[Entry, Step] = {(impl, str(point)): step for impl, step in found.items()}
    times_ms = turns.measure(calls, rounds, device)
    rates = rates_of(point.n_params)
    cases = []
    for (impl, _), times in times_ms.items():
        case = case_record(impl, point, times)
        p50_ms = case["time_ms"]["p50"]
        case |= bandwidth.floor(point.n_params, point.clips, rates, copy_gb_per_s, p50_ms)
        case |= {"read_gb_per_s": rates.read, "adamw_traffic_gb_per_s": rates.traffic}
        case |= {"launches": None, "error": errors[impl]}  # launches: counted on a GPU
        cases.append(case)
    pairs = [(ours, peer) for ours in calls for peer in calls if ours[0] == OURS != peer[0]]
    return cases, turns.ratios(pairs, times_ms), left_out


def compare(rounds: int, device: str, quick: bool) -> dict[str, Any]:
    """Return the record of a run: every implementation in every case, ours against each."""
    info: dict[str, Any] = machine.describe(device)
    parts: dict[str, list[dict[str, Any]]] = {"cases": [], "ratios": [], "left_out": []}
    points = QUICK_POINTS if quick else POINTS
    with bandwidth.meter(device) as (rates_of, reason):
        for point in points:
            found = measure_point(point, rounds, device, rates_of, info["copy_gb_per_s"])
            for name, part in zip(parts, found, strict=True):
                parts[name] += part
        large = rates_of(LARGE[quick])
    if device == "cuda":
        count_launches(parts["cases"], points, device)
    info |= {"read_gb_per_s": large.read, "adamw_traffic_gb_per_s": large.traffic}
    if reason is not None:
        parts["left_out"].append({"case": "adamw_traffic_gb_per_s", "reason": reason})
    origin = machine.origin(f"python benchmarks/{CASE.replace('-', '_')}.py")
    return {"schema": SCHEMA, **origin, "quick": quick, "machine": info, **parts}


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    for case in record["cases"]:
        time_ms = case["time_ms"]
        spread = f"({time_ms['p20']:.2f} to {time_ms['p80']:.2f})"
        rate = f"{case['gb_per_s']:6.1f} GB/s {case['floor_fraction']:6.2f} of the floor"
        name = f"{case['impl']:18} {case['case']}"
        texts.append(f"{name:48} {time_ms['p50']:9.2f} ms {spread:20} {rate}")
    return texts + turns.lines_of_ratios(record)


def main(arguments: list[str] | None = None) -> int:
    parser = turns.parser("Time an optimizer step and its peers in turns.")
    options = parser.parse_args(arguments)
    rounds = turns.QUICK_ROUNDS if options.quick else options.rounds
    record = compare(rounds, options.device, options.quick)
    turns.finish(record, lines(record), CASE, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
