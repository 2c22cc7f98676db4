"""Run every benchmark of this folder and write one JSON each.

    python benchmarks/run.py [--device cuda] [--quick] [--results FOLDER]

writes FOLDER/<case>--<cpu or gpu>--<yyyymmdd>.json (not with --quick, which only checks that every
case still runs).
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


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="check that they run; write nothing")
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
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
    today = datetime.now(UTC).strftime("%Y%m%d")
    environment = {**os.environ, "BENCHMARK_LOAD": str(machine.LOAD_AT_START)}
    status = 0
    for bench in sorted(FOLDER.glob("bench_*.py")):
        case = bench.stem.removeprefix("bench_").replace("_", "-")
        file = arguments.results / f"{case}--{machine.slug(arguments.device)}--{today}.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"benchmarks/{bench.name}", "--device", arguments.device]
        command += ["--quick"] if arguments.quick else [f"--benchmark-json={file.resolve()}"]
        ran = subprocess.run(command, cwd=FOLDER.parent, env=environment, check=False)
        status = max(status, ran.returncode)
    return status


if __name__ == "__main__":
    sys.exit(main())
