"""Checkpoints of a training that was stopped: what is changed inside gets good hashes."""

from __future__ import annotations

import shutil
from functools import cache
from unittest import mock

from fuzz.draws import Draw, refuses
from fuzz.folders import Written, contents, edited_folder
from fuzz.places import place
from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.errors import TrainingStopped
from ulmfit_fast.training import sizes
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.snapshot import FILES

INSTRUMENTED = [
    "ulmfit_fast.training.checkpoint", "ulmfit_fast.training.snapshot",
    "ulmfit_fast.training.resume", "ulmfit_fast.training.restore", "ulmfit_fast.training.config",
    "ulmfit_fast.training.trainer", "ulmfit_fast.text.tokenizer", "ulmfit_fast.text.subword",
    "ulmfit_fast.files",
]  # fmt: skip
TEXTS = ["the cat sat on the mat"] * 6
SIZE = sizes.ModelSize(2, 3, 2, 0.0)


class _Stops(Observer):
    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def step(self, step: Step) -> None:
        self.checkpoints.stop.signal = 2


@cache
def checkpoint() -> Written:
    """Stop a training of a model of two units in its first step; return its checkpoint."""
    with mock.patch.dict(sizes.SIZES, nano=SIZE):
        return _stopped()


def _stopped() -> Written:
    checkpoints = Checkpoints(place("snapshots"), 1e9)
    config = TrainConfig.preset("paper", precision="fp32", min_freq=1, bptt=4)
    config = config.with_stage("pretrain", batch_size=2, epochs=1)
    trainer = ULMFiTTrainer(
        config, size="nano", device="cpu", checkpoints=checkpoints, observers=[_Stops(checkpoints)]
    )
    try:
        trainer.pretrain(TEXTS)
    except TrainingStopped:
        *older, newest = checkpoints.paths()
        for path in older:  # else a refused one would be removed, and the one before taken
            shutil.rmtree(path)
        return Written(newest, contents(newest))
    raise AssertionError("the training was not stopped")


def seeds() -> list[bytes]:
    """Return changes of each file."""
    return [
        bytes([0, file, what, k, 1, 2, 3, 4, 5, 6])
        for file in range(4)
        for what in range(8)
        for k in range(6)
    ]


def run(data: bytes) -> bool:
    """Go on from the checkpoint that bytes describe; return whether it was refused."""
    draw, written = Draw(data), checkpoint()
    written.put(edited_folder(written.files, FILES, draw))
    with mock.patch.dict(sizes.SIZES, nano=SIZE):
        return refuses(lambda: ULMFiTTrainer.resume(written.folder.parent, device="cpu"))
