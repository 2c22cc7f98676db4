"""Small texts whose class shows in their nouns, settings for them, and a run of all stages."""

from __future__ import annotations

import hashlib
import random

import torch

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.model import Dropouts
from ulmfit_fast.training.observer import Observer

NOUNS = {"animal": ["cat", "dog", "horse", "cow"], "tool": ["saw", "drill", "hammer", "file"]}
LIGHT = Dropouts().scaled(0.2)


def draw_texts(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Draw texts whose class shows in their nouns."""
    rng = random.Random(seed)
    labels = [rng.choice(list(NOUNS)) for _ in range(n)]
    texts = []
    for label in labels:
        a, b = rng.choice(NOUNS[label]), rng.choice(NOUNS[label])
        filler = " ".join(
            rng.choice(["old", "big", "red", "near"]) for _ in range(rng.randint(1, 9))
        )
        texts.append(f"The {a} is {filler} and the {b} is not")
    return texts, labels


def small_config(recipe: str = "fastai", **overrides: object) -> TrainConfig:
    """Return quick settings; in float32, so that a test means the same on every machine."""
    settings: dict[str, object] = {"precision": "fp32", **overrides}
    config = TrainConfig.preset(recipe, min_freq=1, bptt=12, max_len=24, **settings)
    config = config.with_stage("pretrain", epochs=2, batch_size=8, lr=0.01, dropouts=LIGHT)
    config = config.with_stage("language_model", epochs=2, batch_size=8, lr=0.01, dropouts=LIGHT)
    return config.with_stage("classifier", epochs=4, batch_size=16, dropouts=LIGHT)


def weights_hash(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def train_all(config: TrainConfig, observers: tuple[Observer, ...] = ()) -> ULMFiTTrainer:
    texts, labels = draw_texts(160)
    valid_texts, valid_labels = draw_texts(40, seed=1)
    trainer = ULMFiTTrainer(config, size="tiny", observers=observers)
    trainer.pretrain(texts[:80], valid_texts)
    trainer.finetune_lm(texts, valid_texts)
    trainer.train_classifier(texts, labels, valid_texts, valid_labels)
    return trainer
