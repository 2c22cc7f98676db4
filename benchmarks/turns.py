"""Implementations one after another, A B C A B C: their times, ratios, and the run's record."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import timing

N_WARM = 2
QUICK_ROUNDS = 2

#: What names a call within a run: implementation, and dtype or case.
Entry = tuple[str, str]


def measure(
    calls: Mapping[Entry, Callable[[], object]], rounds: int, device: str, n_warm: int = N_WARM
) -> dict[Entry, list[float]]:
    """Return the time of each round in milliseconds: every call once, then every call again."""
    for call in calls.values():
        for _ in range(n_warm):
            call()
    machine.synchronize(device)
    times_ms: dict[Entry, list[float]] = {entry: [] for entry in calls}
    for _ in range(rounds):
        for entry, call in calls.items():
            times_ms[entry].append(timing.call_ms(call, device))
    return times_ms


def ratio(ours_ms: Sequence[float], peer_ms: Sequence[float]) -> dict[str, float | bool]:
    """Return how many times faster ours is: the median ratio of a round, and its spread.

    Returns:
        speedup: p20, p50 and p80 of peer / ours over the rounds; equal: whether 1 lies in
            between; of_medians: the ratio of the two medians.
    """
    pairs = timing.summary([peer / ours for ours, peer in zip(ours_ms, peer_ms, strict=True)])
    medians = timing.summary(peer_ms)["p50"] / timing.summary(ours_ms)["p50"]
    speedup = {name: pairs[name] for name in ("p20", "p50", "p80")}
    return {**speedup, "of_medians": medians, "equal": pairs["p20"] <= 1 <= pairs["p80"]}


def ratios(
    pairs: Sequence[tuple[Entry, Entry]], times_ms: Mapping[Entry, Sequence[float]]
) -> list[dict[str, Any]]:
    """Return what the record says about each pair of ours and a peer."""
    return [
        {"ours": list(ours), "peer": list(peer), **ratio(times_ms[ours], times_ms[peer])}
        for ours, peer in pairs
    ]


def times_record(times_ms: Sequence[float]) -> dict[str, Any]:
    """Return the times of a case as a record holds them, its two halves as repeats."""
    half = len(times_ms) // 2
    halves = times_ms[:half], times_ms[half:]
    repeats = [timing.summary(times)["p50"] for times in halves]
    return {"time_ms": timing.summary(times_ms), "repeat_p50_ms": repeats}


def lines_of_ratios(record: Mapping[str, Any]) -> list[str]:
    """Return a line for the terminal for each ratio and each reason of a record."""
    texts = []
    for found in record["ratios"]:
        ours, peer = (" ".join(found[side]) for side in ("ours", "peer"))
        spread = f"({found['p20']:.2f} to {found['p80']:.2f})"
        texts.append(f"{ours} against {peer}: {found['p50']:.2f}x {spread}")
    return texts + [f"left out: {each['case']} ({each['reason']})" for each in record["left_out"]]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every side-by-side run has."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    found.add_argument("--quick", action="store_true", help="tiny sizes; write nothing")
    results = machine.ROOT / "benchmarks" / "results"
    found.add_argument("--results", type=Path, default=results, help="folder to write into")
    found.add_argument("--rounds", type=int, default=15, help="at least 2")
    return found


def finish(
    record: Mapping[str, Any], lines: Sequence[str], case: str, options: argparse.Namespace
) -> None:
    """Print the lines of a record, and write it into the folder of results unless it was quick.

    The file of a case replaces that of an earlier run on the same day.
    """
    sys.stdout.write("\n".join(lines) + "\n")
    if options.quick:
        return
    today = datetime.now(UTC).strftime("%Y%m%d")
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"{case}--{machine.slug(options.device)}--{today}.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    sys.stdout.write(f"written: {file}\n")
