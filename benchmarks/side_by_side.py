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
from pathlib import Path
from typing import Any

import lstm_networks as networks
import machine
import timing
import torch
import turns
from lstm_networks import IMPLEMENTATIONS, Point
from turns import Entry

SCHEMA = 1
OURS = "ulmfit_fast"
IMPLS = ("ulmfit_fast", "fastai", "torch", "torch_undropped")
DTYPES = ("float32", "bfloat16")
N_PEAK_CALLS = 3
N_CHILDREN = 3
#: Where Linux takes the order to begin a new peak.
CLEAR_PEAK = Path("/proc/self/clear_refs")


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
    kind, times = getattr(torch, dtype), turns.times_record(times_ms)
    n_bytes, n_flops = point.n_bytes(kind, True), point.n_flops(True)
    copy_rate, gemm_rate = info["copy_gb_per_s"] * 1e9, info["gemm_tflop_per_s"][dtype] * 1e12
    return {
        "op": point.op,
        "mode": "forward+backward",
        "impl": impl,
        "what": IMPLEMENTATIONS[impl].what,
        "dtype": dtype,
        "sizes": point.sizes(),
        "n_bytes": n_bytes,
        "n_flops": n_flops,
        **times,
        **timing.floor(n_bytes, n_flops, times["time_ms"]["p50"], copy_rate, gemm_rate),
    }


def compare(point: Point, rounds: int, device: str, quick: bool) -> dict[str, Any]:
    """Return the record of a run: time and memory of every implementation, ours against each."""
    calls, errors, left_out = build_calls(point, device)
    entries = list(calls)
    times_ms = turns.measure(calls, rounds, device)
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
    pairs = [
        (ours, peer)
        for ours in entries
        for peer in entries
        if ours[0] == OURS and peer[0] != OURS and peer[1] in (ours[1], "float32")
    ]
    origin = machine.origin("python benchmarks/side_by_side.py")
    record = {"schema": SCHEMA, **origin, "quick": quick, "machine": info, "cases": cases}
    return {**record, "ratios": turns.ratios(pairs, times_ms), "left_out": left_out}


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    for case in record["cases"]:
        time_ms, peak = case["time_ms"], case.get("peak_mib")
        memory = "" if peak is None else f"   peak {peak:.0f} MiB"
        spread = f"({time_ms['p20']:.1f} to {time_ms['p80']:.1f})"
        name = f"{case['impl']} {case['dtype']}"
        texts.append(f"{name:28} {time_ms['p50']:9.1f} ms {spread:20}{memory}")
    return texts + turns.lines_of_ratios(record)


def main(arguments: list[str] | None = None) -> int:
    parser = turns.parser("Time the LSTM and its peers in turns.")
    for letter, size in (("T", 70), ("B", 64), ("H", 1152)):
        parser.add_argument(f"--{letter}", type=int, default=size)
    parser.add_argument("--weigh", nargs=2, metavar=("IMPL", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    machine.use_whole_float32()
    point = Point(3, 2, 16) if options.quick else Point(options.T, options.B, options.H)
    if options.weigh:
        sys.stdout.write(json.dumps(weigh(*options.weigh, point, options.device)) + "\n")
        return 0
    rounds = turns.QUICK_ROUNDS if options.quick else options.rounds
    record = compare(point, rounds, options.device, options.quick)
    turns.finish(record, lines(record), "lstm-side-by-side", options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
