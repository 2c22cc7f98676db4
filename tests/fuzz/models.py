"""Model folders: manifest, hashes, JSON, safetensors; what is changed inside gets good hashes."""

from __future__ import annotations

from functools import cache

import torch

from fuzz.draws import Draw, refuses
from fuzz.folders import Written, contents, edited_folder
from fuzz.places import place
from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.model import AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.text.rules import SPECIALS
from ulmfit_fast.text.tokenizer import WordTokenizer
from ulmfit_fast.text.vocab import pad_vocab
from ulmfit_fast.training.checkpoint import FILES

INSTRUMENTED = [
    "ulmfit_fast.training.checkpoint", "ulmfit_fast.training.snapshot",
    "ulmfit_fast.training.resume", "ulmfit_fast.training.restore", "ulmfit_fast.training.config",
    "ulmfit_fast.training.trainer", "ulmfit_fast.text.tokenizer", "ulmfit_fast.text.subword",
    "ulmfit_fast.files",
]  # fmt: skip


def small_trainer(kind: str) -> ULMFiTTrainer:
    """Return a trainer with a model of two units."""
    trainer = ULMFiTTrainer(
        TrainConfig.preset("paper", precision="fp32"), size="tiny", device="cpu"
    )
    trainer.tokenizer = WordTokenizer(pad_vocab([*SPECIALS, "the", "cat", "sat"]))
    config = AWDLSTMConfig(len(trainer.tokenizer.vocab), 2, 3, 2)
    if kind == "classifier":
        trainer.labels = ["no", "yes"]
        trainer.classifier = TextClassifier(config, 2, hidden_size=4)
    else:
        trainer.language_model = LanguageModel(config)
    return trainer


@cache
def models() -> tuple[Written, ...]:
    torch.manual_seed(0)
    found = []
    for kind in ("classifier", "language_model"):
        folder = place("models") / kind
        small_trainer(kind).save(folder)
        found.append(Written(folder, contents(folder)))
    return tuple(found)


def seeds() -> list[bytes]:
    """Return changes of each file of both models."""
    return [
        bytes([kind, 0, file, what, k, 1, 2, 3, 4, 5, 6])
        for kind in range(2)
        for file in range(4)
        for what in range(8)
        for k in range(3)
    ]


def run(data: bytes) -> bool:
    """Load the model that bytes describe; return whether it was refused."""
    draw = Draw(data)
    written = draw.pick(models())
    written.put(edited_folder(written.files, FILES, draw))
    return refuses(lambda: ULMFiTTrainer.load(written.folder, device="cpu"))
