"""Write the README's table from benchmarks/results; --check fails where the README is not that.

Of every case and machine the newest result counts. Times are medians in milliseconds; a difference
inside the spread of the two repeats is called equal.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import machine as machine_record

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
IMPLEMENTATIONS = ("ulmfit_fast", "torch", "reference")
COLUMNS = ("operation", "sizes", "dtype", "ulmfit_fast, ms", "PyTorch, ms", "reference, ms")
HEADER = f"| {' | '.join(COLUMNS)} | against PyTorch |\n" + "|---" * (len(COLUMNS) + 1) + "|"


def newest_results(folder: Path) -> list[dict[str, Any]]:
    """Return the newest record of every (case, machine), in the order of their names."""
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob("*--*--*.json")):
        newest[path.stem.rpartition("--")[0]] = path
    return [json.loads(path.read_text()) for path in newest.values()]


def compare(ours: dict[str, Any] | None, torchs: dict[str, Any] | None) -> str:
    """Return how many times faster we are than PyTorch, or that it cannot be told."""
    if ours is None or torchs is None:
        return ""
    ratio = torchs["time_ms"]["p50"] / ours["time_ms"]["p50"]
    spread = max(max(c["repeat_p50_ms"]) / min(c["repeat_p50_ms"]) for c in (ours, torchs))
    return "equal" if 1 / spread <= ratio <= spread else f"{ratio:.2g}x"


def rows(record: dict[str, Any]) -> list[str]:
    """Return the table rows of one record."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for case in record["cases"]:
        sizes = ", ".join(f"{letter} {size}" for letter, size in case["sizes"].items())
        key = (f"`{case['op']}` {case['mode']}", sizes, case["dtype"])
        groups.setdefault(key, {})[case["impl"]] = case
    lines = []
    for key, cases in groups.items():
        found = [cases.get(impl) for impl in IMPLEMENTATIONS]
        times = [f"{c['time_ms']['p50']:.3g}" if c else "–" for c in found]
        lines.append("| " + " | ".join([*key, *times, compare(found[0], found[1])]) + " |")
    return lines


def conditions(record: dict[str, Any]) -> str:
    """Return the line that says where the numbers of a record come from."""
    machine = record["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    commit = (record["commit"] or "unknown")[:10] + (" with changes" if record["dirty"] else "")
    torchs = {c["op"]: c["what"] for c in record["cases"] if c["impl"] == "torch"}
    meant = "; ".join(f"`{what}`" for what in torchs.values())
    busy = machine["load_at_start"] > machine_record.BUSY_LOAD and not machine.get("gpu")
    load = f"; **busy machine, load {machine['load_at_start']}**" if busy else ""
    return (
        f"{where}{load}; torch {machine['torch']}; {record['date']}; commit {commit}. "
        f"PyTorch is {meant}. Medians; made by `make {'gpu' if machine.get('gpu') else 'bench'}`."
    )


def table(folder: Path) -> str:
    """Return the text between the markers, without them; empty without results."""
    parts = [
        "\n".join([HEADER, *rows(record), "", conditions(record)])
        for record in newest_results(folder)
    ]
    return "".join(f"{part}\n" for part in "\n\n".join(parts).splitlines())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fill the README's benchmark table.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if it differs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    old = options.readme.read_text()
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.stderr.write(f"{options.readme.name}: no {BEGIN} ... {END} to write between\n")
        return 2
    new = f"{before}{BEGIN}\n{table(options.results)}{END}{after}"
    if options.check:
        if new != old:
            sys.stderr.write(f"{options.readme.name}: the table is not that of the results; ")
            sys.stderr.write("run python benchmarks/report.py\n")
        return int(new != old)
    options.readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
