"""Run every benchmark of this folder and write one JSON each.

    python benchmarks/run.py [--device cuda] [--quick] [--results FOLDER] [--only CASE ...]

writes FOLDER/<case>--<cpu or gpu>--<yyyymmdd>.json (not with --quick, which only checks that every
case still runs). Each file of cases stops after --minutes (8), the most wanted cases first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import machine

FOLDER = Path(__file__).resolve().parent
#: Need --device cuda.
GPU_ONLY = {"cudnn"}
#: Nothing in them runs on a GPU.
CPU_ONLY = {"data-pipeline"}
#: Cases that are scripts of their own.
SIDE_BY_SIDE = {
    "lstm-side-by-side": "side_by_side.py",
    "optimizer-side-by-side": "optimizer_side_by_side.py",
    "training-step-side-by-side": "training_step_side_by_side.py",
    "data-pipeline": "data_pipeline.py",
    "serve-load": "serve_load.py",
}


def case_of(bench: Path) -> str:
    """Return the name of a file of cases in the names of results."""
    return bench.stem.removeprefix("bench_").replace("_", "-")


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of every case."""
    today = datetime.now(UTC).strftime("%Y%m%d")
    shared = ["--device", arguments.device, *(["--quick"] if arguments.quick else [])]
    found = {}
    for bench in sorted(FOLDER.glob("bench_*.py")):
        case = case_of(bench)
        file = arguments.results / f"{case}--{machine.slug(arguments.device)}--{today}.json"
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"benchmarks/{bench.name}"]
        command += [*shared, f"--grid={arguments.grid}", f"--minutes={arguments.minutes:g}"]
        found[case] = command
        if not arguments.quick:
            found[case] = [*command, f"--benchmark-json={file.resolve()}"]
    results = ["--results", str(arguments.results.resolve())]
    scripts = {c: [f"benchmarks/{s}", *shared, *results] for c, s in SIDE_BY_SIDE.items()}
    return {**found, **scripts}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="check that they run; write nothing")
    parser.add_argument("--grid", choices=("default", "full"), default="default")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="for each file of cases; 0: no end"
    )
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    cases = [*(case_of(bench) for bench in sorted(FOLDER.glob("bench_*.py"))), *SIDE_BY_SIDE]
    parser.add_argument("--only", nargs="+", choices=cases, default=cases, metavar="CASE")
    arguments = parser.parse_args()
    if find_spec("pytest_benchmark") is None:
        sys.stdout.write("left out: benchmarks (pytest-benchmark is not installed)\n")
        return 0
    if machine.LOAD_AT_START > machine.BUSY_LOAD and not arguments.quick:
        sys.stdout.write(
            f"this machine is busy (load {machine.LOAD_AT_START:.1f}): CPU times will be too long, "
            "and the report will say so\n"
        )
    arguments.results.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "BENCHMARK_LOAD": str(machine.LOAD_AT_START)}
    status = 0
    for case, command in commands(arguments).items():
        if case not in arguments.only:
            continue
        if case in GPU_ONLY and arguments.device != "cuda":
            sys.stdout.write(f"left out: {case} (needs --device cuda)\n")
            continue
        if case in CPU_ONLY and arguments.device != "cpu":
            sys.stdout.write(f"left out: {case} (runs on the CPU alone)\n")
            continue
        sys.stdout.flush()
        ran = subprocess.run(
            [sys.executable, *command], cwd=FOLDER.parent, env=environment, check=False
        )
        status = max(status, ran.returncode)
    return status


if __name__ == "__main__":
    sys.exit(main())
