"""Write the README's table, docs/benchmarks.md and the plots from benchmarks/results.

--check changes nothing, needs no matplotlib, and fails where one of them is not what the results
say. Of every case and machine the newest result counts. Times are medians in milliseconds; a
difference inside the spread of the repeats is called equal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import end_to_end_tables
import machine as machine_record
import plot
import serve_tables
import shard_tables
import tables

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
#: Cases of the LSTM that the README shows: training, at (T, B, H). The rest is in docs.
README_POINTS = {(70, 64, 1152), (70, 64, 400), (70, 1, 1152)}
README_DTYPES = {"float32", "bfloat16"}


def newest_results(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the newest record of every (case, machine) by its file, in the order of names."""
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob("*--*--*.json")):
        newest[path.stem.rpartition("--")[0]] = path
    return {path: json.loads(path.read_text()) for path in newest.values()}


def for_readme(case: dict[str, Any]) -> bool:
    """Say whether the README shows a case."""
    if case["op"] in ("nn.LSTM", "serve", "shards") or case["impl"] == "torch_undropped":
        return False
    if not case["op"].startswith("lstm"):
        return True
    point = tuple(case["sizes"][letter] for letter in "TBH")
    wanted = point in README_POINTS and case["dtype"] in README_DTYPES
    return wanted and case["mode"] == "forward+backward"


def conditions(record: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    """Return the line that says where the numbers of a record come from."""
    machine = record["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    commit = (record["commit"] or "unknown")[:10] + (" with changes" if record["dirty"] else "")
    torchs = dict.fromkeys(f"`{c['what']}`" for c in cases if c["impl"] == "torch")
    meant = f"PyTorch is {'; '.join(torchs)}. " if torchs and "ratios" not in record else ""
    busy = machine["load_at_start"] > machine_record.BUSY_LOAD and not machine.get("gpu")
    load = f"; **busy machine, load {machine['load_at_start']}**" if busy else ""
    return (
        f"{where}{load}; torch {machine['torch']}; {record['date']}; commit {commit}. "
        f"{meant}Medians; made by `make {'gpu' if machine.get('gpu') else 'bench'}`."
    )


def reasons_left_out(record: dict[str, Any]) -> list[str]:
    """Return a line for each reason why cases of a record have no time, with their number."""
    cases: dict[str, list[str]] = {}
    for each in record.get("left_out", []):
        cases.setdefault(each["reason"], []).append(each["case"])
    return [
        f"- left out, {reason}: {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for reason, names in cases.items()
    ]


def section(record: dict[str, Any], whole: bool) -> str:
    """Return the text of one record; empty if it has nothing to show.

    Args:
        record: a run.
        whole: every case, for docs; else those for the README.
    """
    cases = [case for case in record["cases"] if whole or for_readme(case)]
    if cases and cases[0]["op"] == "serve":
        lines = serve_tables.of_load(record)
    elif cases and cases[0]["op"] == "shards":
        lines = shard_tables.of_shards(record)
    elif "ratios" not in record:
        lines = tables.of_cases(cases, whole)
    elif record["cases"] and record["cases"][0]["mode"] == "end to end":
        lines = end_to_end_tables.of_end_to_end(record, whole)
    elif record["cases"] and record["cases"][0]["mode"] == "script":
        lines = end_to_end_tables.of_scripts(record)
    else:
        lines = tables.of_turns(record, whole)
    if not lines:
        return ""
    reasons = reasons_left_out(record) if whole else []
    return "\n".join([*lines, "", conditions(record, cases), *(["", *reasons] if reasons else [])])


def newest_of_cases(results: dict[Path, dict[str, Any]]) -> dict[Path, dict[str, Any]]:
    """Return of every case the newest record on a CPU and that on a GPU, for the README."""
    newest: dict[tuple[str, bool], Path] = {}
    for path in sorted(results, key=lambda path: path.stem.rpartition("--")[2]):
        case = path.stem.partition("--")[0]
        newest[case, "gpu" in results[path]["machine"]] = path
    return {path: record for path, record in results.items() if path in newest.values()}


def readme_text(results: dict[Path, dict[str, Any]], root: Path) -> str:
    """Return the text between the markers, without them; empty without results."""
    results = newest_of_cases(results)
    parts = [text for record in results.values() if (text := section(record, whole=False))]
    for path in results:
        if plot.is_drawn(path):
            file = Path(os.path.relpath(plot.file_of(path), root)).as_posix()
            parts.append(f"![LSTM, time of one training step]({file})")
    if parts and any(plot.is_drawn(path) for path in results):
        parts.append("Every case that was measured: [docs/benchmarks.md](docs/benchmarks.md).")
    return "".join(f"{part}\n" for part in "\n\n".join(parts).splitlines())


def docs_text(results: dict[Path, dict[str, Any]]) -> str:
    """Return docs/benchmarks.md: every case of every newest record; empty without results."""
    parts = [f"## {path.stem}\n\n{section(record, whole=True)}" for path, record in results.items()]
    if not parts:
        return ""
    head = "# Benchmarks\n\nWritten by `benchmarks/report.py` from `benchmarks/results`; "
    how = "how each number was taken stands in `benchmarks/`. Times are medians in ms.\n\n"
    return head + how + "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fill the README's benchmark table.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if it differs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    results = newest_results(options.results)
    drawn = [path for path in results if plot.is_drawn(path)]
    if not options.check and drawn:
        if find_spec("matplotlib") is None:
            sys.stdout.write("left out: plots (pip install -r requirements/peers.txt)\n")
        else:
            for path in drawn:
                plot.draw(path, results[path])
    old = options.readme.read_text()
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.stderr.write(f"{options.readme.name}: no {BEGIN} ... {END} to write between\n")
        return 2
    root = options.readme.resolve().parent
    texts = {
        options.readme: f"{before}{BEGIN}\n{readme_text(results, root)}{END}{after}",
        root / "docs" / "benchmarks.md": docs_text(results),
    }
    if options.check:
        return check(texts, drawn)
    for file, text in texts.items():
        if text:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        else:
            file.unlink(missing_ok=True)
    return 0


def check(texts: dict[Path, str], drawn: list[Path]) -> int:
    """Return 1 and say so where a file or plot is not that of the results; else 0."""
    stale = [f for f, text in texts.items() if text != (f.read_text() if f.is_file() else "")]
    stale += [plot.file_of(path) for path in drawn if not plot.is_current(path)]
    for file in stale:
        sys.stderr.write(f"{file.name}: not that of the results; run python benchmarks/report.py\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
