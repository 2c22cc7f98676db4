"""Kill a training at random moments, saves included, and let it go on until it is through.

    python tests/kill_training.py --kills 200

Prints kills, those in the middle of a save, checkpoints lost, and trainings whose weights, results
or log differ from those of a training that nobody killed. A training is killed over and over; each
time the checkpoint that was last reported as written, or a newer one, must be there and whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from resume_runs import make_checkpoints, quick_config, start, train

from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.snapshot import read_snapshot

#: Kills come so many seconds after the first step is saved, in most processes, and so many after
#: the start in the others.
LONGEST_S = 0.25
SHARE_IN_TRAINING = 0.75


@dataclass
class Count:
    """What was found.

    Attributes:
        n_kills: processes killed.
        n_in_a_save: of them, those that left a half-written or half-removed directory.
        n_lost: kills after which a checkpoint that was reported is not there.
        n_finished: trainings that came to their end.
        n_differing: of them, those with another outcome.
    """

    n_kills: int = 0
    n_in_a_save: int = 0
    n_lost: int = 0
    n_finished: int = 0
    n_differing: int = 0


class Reporting(Checkpoints):
    """Reports the number of every checkpoint once it is written."""

    pipe = -1

    def write(self, *arguments: object) -> None:
        super().write(*arguments)
        os.write(self.pipe, f"{self.paths()[-1].name}\n".encode())


def outcome(folder: Path, pipe: int) -> str:
    """Train what is left; return a hash of all that came out."""
    torch.set_num_threads(1)  # a fork has none of the threads that its parent has
    torch.manual_seed(time.time_ns())  # nothing may depend on what was drawn before
    checkpoints = Reporting(folder / "checkpoints", 0.0, logs=[folder / "metrics.jsonl"])
    checkpoints.pipe = pipe
    out = train(start(quick_config(), folder, checkpoints), folder)
    return hashlib.sha256(json.dumps(out, sort_keys=True).encode()).hexdigest()


def in_a_child(folder: Path, draw: random.Random | None) -> tuple[bool, list[str]]:
    """Run in a process of its own, killed at a drawn moment; return whether it was, and its lines.

    Without draw it is not killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.write(writing, f"{outcome(folder, writing)}\n".encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    first = b""
    if draw is not None:
        if draw.random() < SHARE_IN_TRAINING:
            first = os.read(reading, 1 << 16)
        time.sleep(draw.uniform(0.0, LONGEST_S))
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as file:
        lines = (first + file.read()).decode().splitlines()
    _, status = os.waitpid(child, 0)
    was_killed = os.WIFSIGNALED(status)
    if not was_killed and os.WEXITSTATUS(status):
        raise SystemExit("a training failed: see above")
    return was_killed, lines


def check_after_kill(folder: Path, reported: list[str], count: Count) -> None:
    """Count what a kill left behind."""
    count.n_kills += 1
    paths = make_checkpoints(folder).paths()
    checkpoints = folder / "checkpoints"
    count.n_in_a_save += checkpoints.is_dir() and any(checkpoints.glob(".[0-9]*"))
    if reported:
        newest = max(path.name for path in paths) if paths else ""
        count.n_lost += newest < reported[-1]
    for path in paths:
        read_snapshot(path)  # raises if it is damaged


def kill_often(n_kills: int, place: Path, seed: int) -> Count:
    """Kill so many processes."""
    draw, count = random.Random(seed), Count()
    (place / "whole").mkdir()
    whole = in_a_child(place / "whole", None)[1][-1]
    while count.n_kills < n_kills:
        folder = place / f"run-{count.n_finished}"
        folder.mkdir()
        last: list[str] = []
        while True:
            was_killed, lines = in_a_child(folder, draw)
            if not was_killed:
                break
            last = lines or last
            check_after_kill(folder, last, count)
            if count.n_kills >= n_kills:
                _, lines = in_a_child(folder, None)
                break
        count.n_finished += 1
        count.n_differing += lines[-1] != whole
    return count


def main() -> None:
    """Read the options, kill, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        count = kill_often(options.kills, Path(place), options.seed)
    sys.stdout.write(json.dumps(vars(count)) + "\n")


if __name__ == "__main__":
    main()
