"""Train a classifier from the package's English model and from scratch: error and seconds.

    python benchmarks/english_start.py --text trec_train_5500.label.xz [--seeds 3]

runs `ulmfit-fast train FILE` with its own choices and with --base none, in turns, and writes
benchmarks/results/accuracy/english-start-<text>--<yyyymmdd>.json. Figures are of the 10 % of the
file that train holds out, another 10 % for each seed; no test file is read. Of TREC's labels the
part before ":" counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

from ulmfit_fast import read_table

RESULTS = Path(__file__).parent / "results" / "accuracy"
STARTS: dict[str, list[str]] = {"english": [], "none": ["--base", "none"]}
COMMAND = "import sys; from ulmfit_fast.cli import main; main(sys.argv[1:])"


def write_coarse(source: Path, target: Path, n_rows: int | None) -> int:
    """Write a table of the texts with the part of their labels before ":", the first n_rows."""
    table = read_table(str(source), labelled=True)
    rows = zip(table.texts, table.labels, strict=True)
    pairs = [(text, label.partition(":")[0]) for text, label in rows if label is not None]
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *pairs[:n_rows]])
    return len(pairs[:n_rows])


def train(table: Path, seed: int, more: list[str], out: Path) -> dict[str, Any]:
    """Return what a run of train says of itself, with the seconds of its whole process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    arguments = ["train", str(table), "--seed", str(seed), "--out", str(out), "--no-report"]
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments, "--no-cache", "--json", *more],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        sys.exit(ran.stderr)
    found = json.loads(ran.stdout)
    return {
        "seed": seed, "base": found["base"], "size": found["size"],
        "valid_error": found["valid"]["error"], "valid_loss": found["valid"]["loss"],
        "wall_s": time.perf_counter() - began,
        "cpu_s": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before,
        "stages": [{"stage": s["stage"], "seconds": s["seconds"], "epochs": len(s["epochs"]),
                    "best": s["best"]} for s in found["stages"]],
        "n_valid": found["data"]["n_valid"], "n_train": found["data"]["n_train"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="the first ones only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--options", default="", help="of train, with spaces between")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "texts.csv"
        n_rows = write_coarse(options.text, table, options.rows)
        for seed in range(options.seeds):
            for name, more in STARTS.items():
                out = Path(place) / f"{name}-{seed}"
                run = train(table, seed, [*more, *options.options.split()], out)
                runs[name].append(run)
                sys.stdout.write(
                    f"{name:8s} seed {seed}  error {100 * run['valid_error']:.2f} %  "
                    f"{run['wall_s']:.0f} s, {run['cpu_s']:.0f} s of CPU\n"
                )
                sys.stdout.flush()
    record = {
        "schema": 1, "case": "english-start", **machine.origin(),
        "command": f"python benchmarks/english_start.py --text {options.text.name} "
                   f"--seeds {options.seeds} --options '{options.options}'",
        "machine": machine.describe("cpu"), "threads": os.environ.get("OMP_NUM_THREADS"),
        "text": options.text.name, "n_rows": n_rows, "runs": runs,
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    title = options.text.name.partition(".")[0].replace("_", "-").lower()
    path = RESULTS / f"english-start-{title}--{str(record['date']).replace('-', '')}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
