"""Train for 50,000 optimizer steps and see that nothing grows with them.

    OMP_NUM_THREADS=1 python tests/soak_training.py [--steps 50000] [--device cuda]

All three stages of a tiny model, with checkpoints, log file, progress, TensorBoard where it is
installed, validation and unfreezing. Every 100 steps: resident memory once what is free went back
to the system (a training does that twice a minute), open files, threads, objects that the garbage
collector knows after a collection, on a GPU its allocated memory. Of each stage the first fifth is
left out, in which caches fill. The slope is Theil and Sen's, its interval a bootstrap of blocks of
neighbouring samples. Ends with 1 where the upper end of an interval, taken to 50,000 steps, is
above the limit, and writes benchmarks/results/reliability/soak--<cpu or gpu>--<yyyymmdd>.json.

What grows by design is bounded and taken out: the history keeps up to 2,000 points of a stage.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_training import draw_texts, small_config

from ulmfit_fast import ULMFiTTrainer
from ulmfit_fast.training.heap import find_trim
from ulmfit_fast.training.history import StageHistory
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.progress import ConsoleProgress, JsonlLog
from ulmfit_fast.training.resume import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
TRIM = find_trim()
#: Shares of the stages in all steps.
SHARES = {"pretrain": 0.4, "language_model": 0.3, "classifier": 0.3}
EPOCHS = 20
WARM_SHARE = 0.2
SAMPLES_PER_STAGE = 150
SECONDS_BETWEEN_CHECKPOINTS = 10.0
#: What the upper end of an interval may come to in so many steps. The classifier's batches have
#: another shape every time, so the allocator's heap wanders by some MiB.
PER_STEPS = 50_000
LIMITS = {"rss_mib": 16.0, "files": 0.5, "threads": 0.5, "objects": 2_000.0, "gpu_mib": 8.0}
N_BOOTSTRAPS = 1_000
CONFIDENCE = 0.95


@dataclass
class Samples:
    """What was read of the process in one stage; lists of one length."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)


def read_process(device: str) -> dict[str, float]:
    """Return what the process holds now; files and memory only where the system has /proc."""
    gc.collect()
    objects = gc.get_objects()
    kept = [each for each in objects if type(each) is StageHistory]
    n_points = sum(len(each.points) + len(each._pending) for each in kept)
    found = {"objects": float(len(objects) - n_points)}
    del objects, kept
    found["threads"] = float(threading.active_count())
    place = Path("/proc/self")
    if place.is_dir():
        if TRIM is not None:
            TRIM()
        pages = int((place / "statm").read_text().split()[1])
        found["rss_mib"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        found["files"] = float(len(os.listdir(place / "fd")))
        lines = (place / "status").read_text().splitlines()
        found["threads"] = float(next(n.split()[1] for n in lines if n.startswith("Threads:")))
    if device == "cuda":
        found["gpu_mib"] = torch.cuda.memory_allocated() / 2**20
    return found


class Sampler(Observer):
    """Reads the process every so many steps of a stage."""

    def __init__(self, every: int, device: str) -> None:
        self.every, self.device = every, device
        self.stages: dict[str, Samples] = {}
        self.n_steps: dict[str, int] = {}

    def step(self, step: Step) -> None:
        samples = self.stages.setdefault(step.stage, Samples())
        self.n_steps[step.stage] = step.step
        if samples.steps and step.step - samples.steps[-1] < self.every:
            return
        samples.steps.append(step.step)
        for name, value in read_process(self.device).items():
            samples.values.setdefault(name, []).append(value)


def theil_sen(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Return the median of the slopes between all pairs of points of different x."""
    first, second = np.triu_indices(len(x), 1)
    dx = x[second] - x[first]
    slopes = (y[second] - y[first])[dx != 0] / dx[dx != 0]
    return float(np.median(slopes))


def growth(steps: Sequence[int], values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Return what a series grows by in PER_STEPS steps, after its warm-up, with its interval.

    Args:
        steps: at which it was read, rising; at least 20.
        values: what was read.
        seed: of the bootstrap.
    """
    n_warm = int(WARM_SHARE * len(steps))
    x, y = np.array(steps[n_warm:], float), np.array(values[n_warm:], float)
    if len(x) < 16:
        raise ValueError(f"{len(x)} samples after the warm-up: too few for an interval")
    size = max(2, round(len(x) ** 0.5))  # neighbours are alike: they are drawn together
    draw = np.random.default_rng(seed)
    slopes = []
    for _ in range(N_BOOTSTRAPS):
        starts = draw.integers(0, len(x) - size + 1, -(-len(x) // size))
        rows = (starts[:, None] + np.arange(size)).ravel()[: len(x)]
        slopes.append(theil_sen(x[rows], y[rows]))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(slopes, [tail, 100 - tail])
    return {
        "slope": round(theil_sen(x, y) * PER_STEPS, 3),
        "low": round(float(low) * PER_STEPS, 3),
        "high": round(float(high) * PER_STEPS, 3),
    }


def judged(sampler: Sampler) -> list[dict[str, Any]]:
    """Return for every stage what grew, and whether that is within the limits."""
    cases = []
    for stage, samples in sampler.stages.items():
        grown = {name: growth(samples.steps, each) for name, each in samples.values.items()}
        too_much = [name for name, found in grown.items() if found["high"] > LIMITS[name]]
        rounded = {name: [round(v, 2) for v in each] for name, each in samples.values.items()}
        cases.append({
            "op": "soak", "mode": stage, "n_steps": sampler.n_steps[stage], "per": PER_STEPS,
            "growth": grown, "too_much": too_much, "steps": samples.steps, **rounded,
        })  # fmt: skip
    return cases


def epoch_texts(n_steps: int, rows: int, tokens: int | None) -> int:
    """Return how many texts make an epoch of so many steps, of rows texts or of tokens."""
    if tokens is None:
        return n_steps * rows
    texts, _ = draw_texts(200)
    per_text = sum(len(text.split()) + 2 for text in texts) / len(texts)  # xxbos and xxmaj
    return round(n_steps * tokens / per_text)


def soak(
    n_steps: int, device: str, folder: Path, others: Sequence[Observer] = ()
) -> list[dict[str, Any]]:
    """Train for about so many steps; return what was found of every stage."""
    config = small_config("fastai", variable_bptt=True, weight_decay=0.02)
    sampler = Sampler(max(1, int(min(SHARES.values()) * n_steps / SAMPLES_PER_STAGE)), device)
    for stage in SHARES:
        config = config.with_stage(stage, epochs=EPOCHS)
    with ExitStack() as stack:
        # What was there before is not looked at again: a collection takes a moment then.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        silent = stack.enter_context(Path(os.devnull).open("w"))
        observers: list[Observer] = [JsonlLog(folder / "metrics.jsonl"), ConsoleProgress(silent)]
        if find_spec("tensorboard") is not None:
            from ulmfit_fast.loggers.tensorboard import TensorBoardLogger

            observers.append(TensorBoardLogger(folder / "tensorboard"))
        for observer in observers:
            stack.callback(observer.close)
        checkpoints = Checkpoints(folder / "checkpoints", SECONDS_BETWEEN_CHECKPOINTS)
        trainer = ULMFiTTrainer(
            config, size="tiny", device=device, observers=[*observers, *others, sampler],
            checkpoints=checkpoints,
        )  # fmt: skip
        valid_texts, valid_labels = draw_texts(60, seed=1)
        per_epoch = {stage: -(-round(s * n_steps) // EPOCHS) for stage, s in SHARES.items()}
        runs: dict[str, Callable[..., object]] = {
            "pretrain": trainer.pretrain, "language_model": trainer.finetune_lm,
        }  # fmt: skip
        for stage, run in runs.items():
            rows = getattr(config, stage).batch_size
            run(draw_texts(epoch_texts(per_epoch[stage], rows, rows * config.bptt))[0], valid_texts)
        n_texts = epoch_texts(per_epoch["classifier"], config.classifier.batch_size, None)
        trainer.train_classifier(*draw_texts(n_texts), valid_texts, valid_labels)
    return judged(sampler)


def main(arguments: list[str] | None = None) -> int:
    """Train, print what grew, write the record, and return 1 where something grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "reliability"
    )
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import machine

    random.seed(0)
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        cases = soak(options.steps, options.device, Path(place))
    record = {
        "schema": 1, **machine.origin(f"python tests/{Path(__file__).name}"),
        "machine": machine.describe(options.device), "seconds": round(time.monotonic() - began),
        "n_steps": sum(case["n_steps"] for case in cases), "limits": LIMITS, "cases": cases,
    }  # fmt: skip
    for case in cases:
        found = {name: f"{g['low']:g} to {g['high']:g}" for name, g in case["growth"].items()}
        verdict = f"TOO MUCH: {', '.join(case['too_much'])}" if case["too_much"] else "flat"
        sys.stdout.write(f"{case['mode']}, {case['n_steps']} steps: {verdict}; {found}\n")
    sys.stdout.write(f"{record['n_steps']} steps, {record['seconds']} s; growth in {PER_STEPS}\n")
    options.results.mkdir(parents=True, exist_ok=True)
    name = f"soak--{machine.slug(options.device)}--{time.strftime('%Y%m%d', time.gmtime())}.json"
    (options.results / name).write_text(json.dumps(record) + "\n")
    return int(any(case["too_much"] for case in cases))


if __name__ == "__main__":
    sys.exit(main())
