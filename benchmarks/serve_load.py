"""Load on `ulmfit-fast serve`: many clients with good and bad requests, batches shared or not.

    OMP_NUM_THREADS=1 python benchmarks/serve_load.py [--size small] [--clients 32] [--seconds 150]

writes benchmarks/results/serve-load--<cpu or gpu>--<yyyymmdd>.json and prints a line for each case.
Two servers of the same model take turns under the same clients: one joins requests to batches, the
other classifies one text at a time. One request in five is bad, in 21 ways. Every answer is
checked: a good one against ULMFiTTrainer.predict, a bad one for its status. A server's memory,
files and threads are read once a second. The weights are as drawn, the head's larger: times do not
depend on them. The texts are docstrings of the standard library. The clients share the processor
with the server.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import machine
import timing
import torch
import turns
from serve_clients import Pool, Tally, drive

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.demo_corpus import build_demo_corpus, find_sources
from ulmfit_fast.text import train_tokenizer
from ulmfit_fast.training.sizes import SIZES, model_size, new_language_model
from ulmfit_fast.training.transfer import classifier_from

SCHEMA = 1
CASE = "serve-load"
#: Name of an implementation, and the options of its server.
SERVERS = {
    "batches": [],
    "one text at a time": ["--max-batch-tokens", "1", "--max-wait-ms", "0"],
}
N_TEXTS = 300
TURN_S = 15.0
#: A probability's distance from ULMFiTTrainer's that is rounding.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
#: Growth of a server's memory, from its first third to its last, that is still called flat.
FLAT_MIB = 24.0
CLASSES = 5


@dataclass
class Server:
    """A running server, and what was read of its process.

    Attributes:
        process: its process.
        url: its address, once it is ready.
        mib, files, threads: once a second.
        tally: what its clients saw.
    """

    process: subprocess.Popen[str]
    url: str = ""
    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def wait(self) -> None:
        """Wait until it says where it listens."""
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]

    def read(self) -> None:
        """Read memory, open files and threads, where the system has /proc."""
        place = Path(f"/proc/{self.process.pid}")
        if not place.is_dir():
            return
        lines = (line.partition(":") for line in (place / "status").read_text().splitlines())
        status = {name: value.split() for name, _, value in lines}
        self.mib.append(int(status["VmRSS"][0]) / 1024)
        self.threads.append(int(status["Threads"][0]))
        self.files.append(len(os.listdir(place / "fd")))

    def growth(self) -> dict[str, float]:
        """Return the median of the last third of the readings above that of the second."""
        if len(self.mib) < 6:
            return {}
        third = len(self.mib) // 3
        series = {"mib": self.mib, "files": self.files, "threads": self.threads}
        return {
            name: round(
                statistics.median(values[-third:]) - statistics.median(values[third : 2 * third]), 2
            )
            for name, values in series.items()
        }


def quick_texts() -> list[str]:
    """Return texts that take no time to find."""
    words = Path(__file__).read_text().split()
    return [" ".join(words[i : i + 5 + i % 50]) for i in range(0, len(words), 3)]


def make_model(size: str, folder: Path, texts: list[str]) -> Pool:
    """Save a classifier that was not trained, and return texts with its answers."""
    config = TrainConfig.preset(max_vocab=20_000)
    trainer = ULMFiTTrainer(config, size=size)
    tokenizer = train_tokenizer(texts, max_vocab=config.max_vocab)
    torch.manual_seed(0)
    dropouts = config.classifier.dropouts
    encoder = new_language_model(model_size(size), tokenizer, dropouts).encoder
    model = classifier_from(encoder, CLASSES, dropouts, bptt=config.bptt, max_len=config.max_len)
    with torch.no_grad():  # probabilities of different texts shall be told apart
        list(model.head.parameters())[-2].mul_(20)
    trainer.tokenizer, trainer.classifier = tokenizer, model.to(trainer.device).eval()
    trainer.labels = [f"class {i}" for i in range(CLASSES)]
    trainer.save(folder)
    different = list(dict.fromkeys(text for text in texts if text.strip()))[:N_TEXTS]
    answers = [next(iter(p.probabilities.values())) for p in trainer.predict(different)]
    return Pool(different, answers, TOLERANCE[trainer.precision.name])


@contextmanager
def serving(model: Path, options: list[str], device: str) -> Iterator[Server]:
    """Run a server on a free port; it must end with status 0 and without a word."""
    code = "from ulmfit_fast.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", str(model), "--port", "0", "--json"]
    command += ["--device", device, *options]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield Server(process)
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
        errors.seek(0)
        said = errors.read().splitlines()
        if status != 0 or len(said) != 3:  # two of the start, one of the end
            raise RuntimeError(f"the server ended with {status} and said {said}")


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def case_record(name: str, server: Server, seconds: float, options: Any) -> dict[str, Any]:
    """Return what the record says of one server."""
    tally = server.tally
    n_answers = sum(tally.statuses.values())
    return {
        "op": "serve",
        "mode": "load",
        "impl": name,
        "what": " ".join(["ulmfit-fast serve", *SERVERS[name]]),
        "case": options.size,
        "n_clients": options.clients,
        "seconds": round(seconds, 1),
        "time_ms": timing.summary(tally.good_ms),
        "p99_ms": percentile(tally.good_ms, 0.99),
        "max_ms": max(tally.good_ms),
        "requests_per_s": n_answers / seconds,
        "good_per_s": len(tally.good_ms) / seconds,
        "texts_per_s": tally.n_texts / seconds,
        "statuses": {str(status): n for status, n in sorted(tally.statuses.items())},
        "n_unexpected": tally.n_unexpected,
        "unexpected": tally.unexpected,
        "growth": server.growth(),
        "mib": [round(value, 1) for value in server.mib],
        "files": server.files,
        "threads": server.threads,
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Load both servers in turns, and return the record."""
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made) / "model"
        texts = quick_texts() if options.quick else build_demo_corpus(find_sources()).general
        pool = make_model(options.size, folder, texts)
        servers = {
            name: stack.enter_context(serving(folder, extra, options.device))
            for name, extra in SERVERS.items()
        }
        for server in servers.values():
            server.wait()
        n_turns = max(1, round(options.seconds / len(SERVERS) / TURN_S))
        turn_s = options.seconds / len(SERVERS) / n_turns
        for server in servers.values():  # caches fill, memory settles
            drive(server.url, pool, options.clients, min(2.0, turn_s / 4), 0, lambda: None)
        for turn in range(n_turns):
            for server in servers.values():
                tally = drive(server.url, pool, options.clients, turn_s, turn + 1, server.read)
                server.tally.add(tally)
        return {
            "schema": SCHEMA,
            **machine.origin(f"python benchmarks/{Path(__file__).name}"),
            "machine": machine.describe(options.device),
            "cases": [
                case_record(name, server, n_turns * turn_s, options)
                for name, server in servers.items()
            ],
        }


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    for case in record["cases"]:
        texts.append(
            f"{case['impl']}: {case['requests_per_s']:.0f} requests/s, "
            f"{case['texts_per_s']:.0f} texts/s; good ones p50 {case['time_ms']['p50']:.1f} ms, "
            f"p99 {case['p99_ms']:.1f} ms; unexpected {case['n_unexpected']}; statuses "
            f"{case['statuses']}; growth {case['growth']}"
        )
        texts += [f"  {what}" for what in case["unexpected"]]
    return texts


def main(arguments: list[str] | None = None) -> int:
    parser = turns.parser("Put load on the server.")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=150.0, help="for both servers together")
    options = parser.parse_args(arguments)
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        sys.stdout.write('left out: load on the server (pip install "ulmfit_fast[serve]")\n')
        return 0
    if options.quick:
        options.size, options.clients, options.seconds = "tiny", 8, 5.0
    record = compare(options)
    turns.finish(record, lines(record), CASE, options)
    flat = all(abs(case["growth"].get("mib", 0.0)) <= FLAT_MIB for case in record["cases"])
    return int(not flat or any(case["n_unexpected"] for case in record["cases"]))


if __name__ == "__main__":
    sys.exit(main())
