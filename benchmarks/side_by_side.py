"""Time the weight-dropped LSTM and its peers in turns, and weigh the memory of each.

    python benchmarks/side_by_side.py [--device cuda] [--T 70 --B 64 --H 1152] [--rounds 15]

writes benchmarks/results/lstm-side-by-side--<cpu or gpu>--<yyyymmdd>.json and prints a line for
each implementation. All do the same work: one layer H -> H, T steps of B rows, forward and
backward, with the gradients of x and of every weight. They run one after another, A B C A B C, so
that the machine's drift falls on all alike, and ratios are taken within a round. Memory is measured
in processes for each: the peak above what the process held once its network and inputs were there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lstm_networks as networks
import machine
import timing
import torch
from lstm_networks import IMPLEMENTATIONS, Point

SCHEMA = 1
OURS = "ulmfit_fast"
IMPLS = ("ulmfit_fast", "fastai", "torch", "torch_undropped")
DTYPES = ("float32", "bfloat16")
N_WARM = 2
N_PEAK_CALLS = 3
N_CHILDREN = 3
#: Where Linux takes the order to begin a new peak.
CLEAR_PEAK = Path("/proc/self/clear_refs")

Entry = tuple[str, str]  # implementation, dtype


def build_calls(
    point: Point, device: str
) -> tuple[dict[Entry, Callable[[], object]], dict[Entry, float], list[dict[str, str]]]:
    """Return a call and the error of every implementation that passes the check, and the others."""
    calls, errors, left_out = {}, {}, []
    for dtype, impl in itertools.product(DTYPES, IMPLS):
        kind, reason = getattr(torch, dtype), networks.why_left_out(impl, device)
        if reason is None:
            errors[impl, dtype], reason = networks.check_or_leave_out(impl, point, kind, device)
        if reason is not None:
            left_out.append({"case": f"{impl} {dtype}", "reason": reason})
            continue
        torch.manual_seed(1)
        calls[impl, dtype] = networks.build_call(impl, point, kind, True, device)
    return calls, errors, left_out


def measure(
    calls: dict[Entry, Callable[[], object]], rounds: int, device: str
) -> dict[Entry, list[float]]:
    """Return the time of each round in milliseconds: every call once, then every call again."""
    for call in calls.values():
        for _ in range(N_WARM):
            call()
    machine.synchronize(device)
    times_ms: dict[Entry, list[float]] = {entry: [] for entry in calls}
    for _ in range(rounds):
        for entry, call in calls.items():
            times_ms[entry].append(timing.call_ms(call, device))
    return times_ms


def ratio(ours_ms: list[float], peer_ms: list[float]) -> dict[str, float | bool]:
    """Return how many times faster ours is: the median ratio of a round, and its spread.

    Returns:
        speedup: p20, p50 and p80 of peer / ours over the rounds; equal: whether 1 lies in
            between; of_medians: the ratio of the two medians.
    """
    pairs = timing.summary([peer / ours for ours, peer in zip(ours_ms, peer_ms, strict=True)])
    medians = timing.summary(peer_ms)["p50"] / timing.summary(ours_ms)["p50"]
    speedup = {name: pairs[name] for name in ("p20", "p50", "p80")}
    return {**speedup, "of_medians": medians, "equal": pairs["p20"] <= 1 <= pairs["p80"]}


def resident_mib(field: str) -> float:
    """Return VmRSS (now) or VmHWM (peak) of this process, as Linux tells it."""
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(match.group(1)) / 1024


def weigh(impl: str, dtype: str, point: Point, device: str) -> dict[str, float]:
    """Return the memory of one implementation; to be called in a process of its own.

    Returns:
        network_mib: weights and inputs; peak_mib: above that, during forward and backward.
    """
    kind, on_gpu = getattr(torch, dtype), device == "cuda"
    networks.build_call(impl, Point(2, 2, 8), kind, True, device)()  # loads libraries
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident_mib("VmRSS")
    call = networks.build_call(impl, point, kind, True, device)
    if on_gpu:
        held = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    else:
        held = resident_mib("VmRSS")
        CLEAR_PEAK.write_text("5")  # VmHWM begins again
    for _ in range(N_PEAK_CALLS):
        call()
    machine.synchronize(device)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident_mib("VmHWM")
    return {"network_mib": round(held - before, 1), "peak_mib": round(peak - held, 1)}


def weigh_in_children(entry: Entry, point: Point, device: str) -> dict[str, Any]:
    """Return the medians of what weigh finds in a few processes of their own, and the peaks' range.

    The allocator gives the same work up to 20 MiB more or less in another process (fastai, float32,
    T 70, B 64, H 1152: 421 to 442 MiB; 2026-11-24).
    """
    command = [sys.executable, __file__, "--weigh", *entry, "--device", device]
    command += [f"--{letter}={size}" for letter, size in point.sizes().items()]
    found: list[dict[str, float]] = []
    for _ in range(N_CHILDREN):
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(ran.stdout.splitlines()[-1]))
    medians = {name: statistics.median(each[name] for each in found) for name in found[0]}
    peaks = [each["peak_mib"] for each in found]
    return {**medians, "peak_mib_range": [min(peaks), max(peaks)]}


def case_record(
    entry: Entry, point: Point, times_ms: list[float], info: dict[str, Any]
) -> dict[str, Any]:
    """Return what the record says about the time of one implementation."""
    impl, dtype = entry
    kind, time_ms = getattr(torch, dtype), timing.summary(times_ms)
    n_bytes, n_flops = point.n_bytes(kind, True), point.n_flops(True)
    copy_rate, gemm_rate = info["copy_gb_per_s"] * 1e9, info["gemm_tflop_per_s"][dtype] * 1e12
    half = len(times_ms) // 2
    return {
        "op": point.op,
        "mode": "forward+backward",
        "impl": impl,
        "what": IMPLEMENTATIONS[impl].what,
        "dtype": dtype,
        "sizes": point.sizes(),
        "n_bytes": n_bytes,
        "n_flops": n_flops,
        "time_ms": time_ms,
        "repeat_p50_ms": [timing.summary(t)["p50"] for t in (times_ms[:half], times_ms[half:])],
        **timing.floor(n_bytes, n_flops, time_ms["p50"], copy_rate, gemm_rate),
    }


def compare(point: Point, rounds: int, device: str, quick: bool) -> dict[str, Any]:
    """Return the record of a run: time and memory of every implementation, ours against each."""
    calls, errors, left_out = build_calls(point, device)
    entries = list(calls)
    times_ms = measure(calls, rounds, device)
    info: dict[str, Any] = machine.describe(device)
    rates = {dtype: machine.gemm_rate(device, getattr(torch, dtype)) for dtype in DTYPES}
    info["gemm_tflop_per_s"] = {dtype: round(rate / 1e12, 4) for dtype, rate in rates.items()}
    weighed = entries[:1] if quick else entries  # a child spends seconds on its imports
    if device == "cpu" and not CLEAR_PEAK.exists():
        weighed = []
        left_out.append({"case": "peak_mib", "reason": f"this system has no {CLEAR_PEAK}"})
    memory = {entry: weigh_in_children(entry, point, device) for entry in weighed}
    cases = [
        {
            **case_record(entry, point, times_ms[entry], info),
            "error": errors[entry],
            **memory.get(entry, {}),
        }
        for entry in entries
    ]
    ratios = [
        {"ours": list(ours), "peer": list(peer), **ratio(times_ms[ours], times_ms[peer])}
        for ours in entries
        for peer in entries
        if ours[0] == OURS and peer[0] != OURS and peer[1] in (ours[1], "float32")
    ]
    origin = machine.origin("python benchmarks/side_by_side.py")
    record = {"schema": SCHEMA, **origin, "quick": quick, "machine": info, "cases": cases}
    return {**record, "ratios": ratios, "left_out": left_out}


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    for case in record["cases"]:
        time_ms, peak = case["time_ms"], case.get("peak_mib")
        memory = "" if peak is None else f"   peak {peak:.0f} MiB"
        spread = f"({time_ms['p20']:.1f} to {time_ms['p80']:.1f})"
        name = f"{case['impl']} {case['dtype']}"
        texts.append(f"{name:28} {time_ms['p50']:9.1f} ms {spread:20}{memory}")
    for found in record["ratios"]:
        ours, peer = (" ".join(found[side]) for side in ("ours", "peer"))
        spread = f"({found['p20']:.2f} to {found['p80']:.2f})"
        texts.append(f"{ours} against {peer}: {found['p50']:.2f}x {spread}")
    return texts + [f"left out: {each['case']} ({each['reason']})" for each in record["left_out"]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time the LSTM and its peers in turns.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; write nothing")
    parser.add_argument("--results", type=Path, default=machine.ROOT / "benchmarks" / "results")
    parser.add_argument("--rounds", type=int, default=15)
    for letter, size in (("T", 70), ("B", 64), ("H", 1152)):
        parser.add_argument(f"--{letter}", type=int, default=size)
    parser.add_argument("--weigh", nargs=2, metavar=("IMPL", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    machine.use_whole_float32()
    point = Point(3, 2, 16) if options.quick else Point(options.T, options.B, options.H)
    if options.weigh:
        sys.stdout.write(json.dumps(weigh(*options.weigh, point, options.device)) + "\n")
        return 0
    rounds = 2 if options.quick else options.rounds
    record = compare(point, rounds, options.device, options.quick)
    sys.stdout.write("\n".join(lines(record)) + "\n")
    if not options.quick:
        today = datetime.now(UTC).strftime("%Y%m%d")
        name = f"lstm-side-by-side--{machine.slug(options.device)}--{today}.json"
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / name).write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
