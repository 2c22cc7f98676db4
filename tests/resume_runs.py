"""Small trainings of all stages that are stopped and go on, and all that came out of them."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from small_training import draw_texts, small_config, weights_hash

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.progress import JsonlLog
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.snapshot import read_snapshot

#: What of a log and of metrics tells of time, and differs from run to run.
TIMES = ("time", "tokens_per_s", "seconds", "epoch_seconds")


class At(Observer):
    """Does something at one step of one stage, once."""

    def __init__(self, stage: str, step: int, act: Any) -> None:
        self.stage, self.number, self.act = stage, step, act

    def step(self, step: Step) -> None:
        if (step.stage, step.step) == (self.stage, self.number):
            self.number = -1
            self.act()


def asks_to_stop(checkpoints: Checkpoints) -> Any:
    """Return what asks for a stop as a signal that is held back does."""

    def act() -> None:
        checkpoints.stop.signal = signal.SIGINT

    return act


def quick_config(recipe: str = "paper") -> TrainConfig:
    config = small_config(recipe, variable_bptt=True, weight_decay=0.02, seed=3)
    return config.with_stage("classifier", epochs=3)


def make_checkpoints(folder: Path, every_s: float = 1e9, **more: Any) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", every_s, logs=[folder / "metrics.jsonl"], **more)


def start(
    config: TrainConfig, folder: Path, checkpoints: Checkpoints, *others: Observer
) -> ULMFiTTrainer:
    """Return a trainer that begins or, where there are checkpoints, goes on."""
    folder.mkdir(exist_ok=True)
    log = JsonlLog(folder / "metrics.jsonl")
    observers = [*others, log]
    if checkpoints.paths():
        return ULMFiTTrainer.resume(checkpoints, observers=observers)
    return ULMFiTTrainer(
        config, size="tiny", observers=observers, checkpoints=checkpoints, device="cpu"
    )


def train(trainer: ULMFiTTrainer, folder: Path) -> dict[str, Any]:
    """Train all stages; return every bit that came out of them."""
    texts, labels = draw_texts(60)
    valid_texts, valid_labels = draw_texts(20, seed=1)
    results = [
        trainer.pretrain(texts[:40], valid_texts),
        trainer.finetune_lm(texts, valid_texts),
    ]
    lm = weights_hash(trainer.language_model)
    results.append(trainer.train_classifier(texts, labels, valid_texts, valid_labels))
    assert weights_hash(trainer.language_model) == lm
    for observer in trainer.observers:
        observer.close()
    return {
        "language_model": lm,
        "classifier": weights_hash(trainer.classifier),
        "vocab": trainer.tokenizer.vocab,
        "labels": trainer.labels,
        "results": [without_times(asdict(result)) for result in results],
        "log": log_of(folder),
        "probabilities": [p.probabilities for p in trainer.predict(valid_texts)],
    }


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


def hash_of(path: Path) -> tuple[str, str]:
    """Return a checkpoint's stage, step and epochs done, and the hash of all in it but times."""
    snapshot = read_snapshot(path)
    digest = hashlib.sha256(
        json.dumps([without_times(snapshot.values.get("state")), snapshot.tokenizer.vocab]).encode()
    )
    for name, tensor in sorted(snapshot.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    progress = snapshot.values.get("state", {}).get("progress", {"epoch": "all"})
    name = f"{path.name.partition('-')[2]}, epoch {progress['epoch']}"
    return name, digest.hexdigest()
