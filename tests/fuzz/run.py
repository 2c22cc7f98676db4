"""Fuzz a reader with atheris (requirements/fuzz.txt) until it has run so often.

    python tests/fuzz/run.py vocabulary --runs 1000000 --results benchmarks/results

An input that raises, takes over 10 s or more memory than the limit ends the run: its bytes are
printed in base64, and `--input BASE64` runs them again. Seeds are made by the target; what covers
more is kept in a folder in memory.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("vocabulary", "settings", "models", "snapshots", "tables", "fastai_weights")
#: Seconds of one input, and megabytes of the process, torch included.
SECONDS, MEGABYTES = 10, 1500
LONGEST_INPUT = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=0, help="end after so long; 0: never")
    parser.add_argument("--corpus", type=Path, help="folder of inputs to begin with and add to")
    parser.add_argument("--results", type=Path, help="folder for a JSON of what was done")
    parser.add_argument("--input", help="run this input, in base64, without atheris")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    if options.input is not None:
        found = importlib.import_module(f"fuzz.{options.target}")
        print("refused" if found.run(base64.b64decode(options.input)) else "read")
        return 0
    if options.here:
        return fuzz(options)
    return watch(options)


def fuzz(options: argparse.Namespace) -> int:
    """Run the target under atheris, which ends the process itself."""
    import atheris  # the only file that needs it
    import torch

    torch.set_num_threads(1)
    name = f"fuzz.{options.target}"
    with atheris.instrument_imports(include=instrumented(options.target)):
        target = importlib.import_module(name)
    for k, seed in enumerate(target.seeds()):
        (options.corpus / f"seed-{k:04d}").write_bytes(seed)
    target.run(b"")  # whatever is made once
    atheris.Setup([
        sys.argv[0], f"-runs={options.runs}", f"-seed={options.seed}", f"-timeout={SECONDS}",
        f"-max_total_time={options.seconds}",
        f"-rss_limit_mb={MEGABYTES}", f"-max_len={LONGEST_INPUT}", "-print_final_stats=1",
        f"-artifact_prefix={options.corpus.parent}/found-", "-len_control=0", str(options.corpus),
    ], target.run)  # fmt: skip
    atheris.Fuzz()
    return 0


def instrumented(target: str) -> list[str]:
    """Return the modules whose coverage guides, without importing any of them."""
    source = (Path(__file__).parent / f"{target}.py").read_text()
    found = re.search(r"INSTRUMENTED = \[(.*?)\]", source, re.DOTALL)
    assert found is not None
    return re.findall(r'"([\w.]+)"', found[1])


def watch(options: argparse.Namespace) -> int:
    """Run the target in a process of its own, show its output, and write what came of it."""
    from benchmarks.machine import describe, origin

    about = origin("python tests/fuzz/run.py")  # of now: files may change while it runs
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as folder:
        corpus = options.corpus or Path(folder) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, __file__, options.target, "--here", f"--runs={options.runs}",
            f"--seed={options.seed}", f"--corpus={corpus}", f"--seconds={options.seconds}",
        ]  # fmt: skip
        began, lines = time.monotonic(), []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if not re.match(r"#\d+\s+(NEW|REDUCE)", line):
                    print(line, end="", flush=True)
        found = sorted(Path(folder).glob("found-*"))
        for path in found:
            print(f"{path.name}: --input {base64.b64encode(path.read_bytes()).decode()}")
        result = summary(options, "".join(lines), time.monotonic() - began, process.returncode)
        result["findings"] = len(found)
    print(json.dumps(result, indent=1))
    if options.results is not None:
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"fuzz-{options.target}--{date.today():%Y%m%d}.json"
        record = {**about, **result, "machine": describe("cpu")}
        path.write_text(json.dumps(record, indent=1) + "\n")
    return int(bool(found) or process.returncode != 0)


def summary(
    options: argparse.Namespace, output: str, seconds: float, status: int
) -> dict[str, object]:
    """Return what libFuzzer printed of a run, as numbers."""
    edges = [int(n) for n in re.findall(r"cov: (\d+)", output)]
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", output))
    return {
        "target": options.target,
        "executions": int(stats.get("number_of_executed_units", 0)),
        "seconds": round(seconds, 1),
        "edges_of_the_seeds": edges[0] if edges else 0,
        "edges": edges[-1] if edges else 0,
        "inputs_kept": int(re.findall(r"corp: (\d+)/", output)[-1]) if edges else 0,
        "slowest_s": int(stats.get("slowest_unit_time_sec", 0)),
        "peak_rss_mb": int(stats.get("peak_rss_mb", 0)),
        "time_limit_s": SECONDS,
        "memory_limit_mb": MEGABYTES,
        "exit_status": status,
    }


if __name__ == "__main__":
    sys.exit(main())
