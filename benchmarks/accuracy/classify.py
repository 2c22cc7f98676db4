"""One ULMFiT run: a language model for the texts, a classifier, answers for the texts to measure.

Language models are kept in the work folder by what decides them, so that variants which differ in
the classifier alone, and a run that goes on, share one. Both stages save checkpoints.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.errors import InputError
from ulmfit_fast.model import Dropouts
from ulmfit_fast.training.observer import Observer
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.sizes import model_size

from .data import Labelled, reversed_words, sha256_of
from .intervals import of_error
from .plans import Variant, classifier_plan, language_model_plan, plan_json
from .record import as_json, replacing, say

#: Epochs of the classifier on a vanilla language model, and its dropout (paper, section 5.2).
VANILLA_EPOCHS, VANILLA_DROPOUT = 5, 0.4


@dataclass(frozen=True)
class Parts:
    """What a run reads.

    Attributes:
        train: labelled rows to train on.
        valid: labelled rows that choose the best epoch; None keeps the last weights.
        measured: labelled rows to measure, once, at the end.
        language_model: texts that the language model reads.
    """

    train: Labelled
    valid: Labelled | None
    measured: Labelled
    language_model: list[str]

    def content(self) -> dict[str, Any]:
        """Return counts and hashes for the record."""
        valid = self.valid or Labelled([], [])
        parts = {"train": self.train, "valid": valid, "measured": self.measured}
        found: dict[str, Any] = {
            name: {"n": len(part), "sha256": sha256_of(part.texts, part.labels)[:16]}
            for name, part in parts.items()
        }
        texts = self.language_model
        found["language_model"] = {"n": len(texts), "sha256": sha256_of(texts)[:16]}
        return found

    def backward(self) -> Parts:
        """Return the same texts with their words in the opposite order."""

        def turned(part: Labelled) -> Labelled:
            return Labelled([reversed_words(text) for text in part.texts], part.labels)

        return Parts(
            turned(self.train), self.valid and turned(self.valid), turned(self.measured),
            [reversed_words(text) for text in self.language_model],
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A ULMFiT run.

    Attributes:
        parts: texts and labels.
        config: settings of all stages.
        variant: what is left out or done otherwise.
        size: of a new model, and its kind of tokenizer.
        base: folder of a pretrained language model, or None.
    """

    parts: Parts
    config: TrainConfig
    variant: Variant
    size: tuple[str, str]
    base: Path | None

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result, as JSON has it."""
        base = self.base if self.variant.needs_base else None
        values = {
            "train": self.trained_config().to_dict(),
            "language_model": self.variant.language_model,
            "classifier": self.variant.classifier,
            "size": list(self.size) if base is None else None,
            "base": None if base is None else hash_of(base),
            "parts": self.parts.content(),
        }
        return dict(as_json(values))

    def trained_config(self) -> TrainConfig:
        """Return the settings of the stages, with the dropouts of the variant."""
        if self.variant.has_dropout:
            return self.config
        none = Dropouts(0.0, 0.0, 0.0, 0.0, 0.0)
        config = self.config.with_stage("language_model", dropouts=none)
        epochs = min(VANILLA_EPOCHS, config.classifier.epochs)
        kept = replace(none, output=VANILLA_DROPOUT)
        return config.with_stage("classifier", dropouts=kept, epochs=epochs)

    def language_model_key(self) -> str:
        """Return a name for the language model: of what decides it, the classifier left out."""
        settings = self.settings()
        del settings["classifier"], settings["train"]["classifier"]
        for part in ("train", "measured"):
            del settings["parts"][part]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def hash_of(base: Path) -> str:
    """Return what names a model folder's content.

    Raises:
        InputError: it is none.
    """
    manifest = base / "manifest.json"
    if not manifest.is_file():
        raise InputError(f"{base}: not a model folder (no manifest.json): check --base")
    return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]


class Epochs(Observer):
    """Says how every epoch ended."""

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        say(f"  {stage} epoch {epoch}: {values}")


def opened(
    folder: Path, options: argparse.Namespace, make: Callable[..., ULMFiTTrainer]
) -> ULMFiTTrainer:
    """Return a trainer that goes on from the checkpoints of a folder, or a new one.

    Args:
        folder: of the checkpoints.
        options: of the driver.
        make: makes a trainer that saves to the checkpoints it is given.
    """
    checkpoints = Checkpoints(
        folder, options.checkpoint_every, how_to_go_on="the same command again"
    )
    if checkpoints.paths():
        return ULMFiTTrainer.resume(checkpoints, device=options.device, observers=[Epochs()])
    return make(device=options.device, observers=[Epochs()], checkpoints=checkpoints)


def language_model(run: Run, options: argparse.Namespace) -> tuple[Path | None, dict[str, Any]]:
    """Return the folder of the language model that a run's classifier starts from.

    Returns:
        folder: None where it starts from nothing.
        facts: seconds and perplexity of its training; empty where there was none.
    """
    kind, config = run.variant.language_model, run.trained_config()
    if kind == "no":
        return None, {}
    if run.variant.needs_base and run.base is None:
        raise InputError("no pretrained model: give --base FOLDER")
    if kind == "none":
        return run.base, {}
    folder = options.work / "language-models" / run.language_model_key()
    facts = folder.with_suffix(".json")
    if facts.is_file():
        return folder, dict(json.loads(facts.read_text()))
    texts = run.parts.language_model
    valid = None if run.parts.valid is None else run.parts.valid.texts
    size, tokenizer = run.size

    def make(**more: Any) -> ULMFiTTrainer:
        if kind == "fresh":
            return ULMFiTTrainer(config, size=size, tokenizer_kind=tokenizer, **more)
        return ULMFiTTrainer.load(run.base, config=config, **more)  # type: ignore[arg-type]

    trainer = opened(folder.with_suffix(".checkpoints"), options, make)
    if kind == "fresh":
        result = trainer.pretrain(texts, valid)
    else:
        groups = n_groups(run.base, trainer)
        epochs = config.language_model.epochs
        trainer.plans["language_model"] = language_model_plan(kind, groups, epochs)
        result = trainer.finetune_lm(texts, valid)
    trainer.save(folder, "language_model")
    found = {
        "seconds": round(result.seconds, 2),
        "n_tokens": result.n_tokens,
        "perplexity": result.best.get("perplexity"),
    }
    facts.write_text(json.dumps(found))
    shutil.rmtree(folder.with_suffix(".checkpoints"), ignore_errors=True)
    return folder, found


def n_groups(base: Path | None, trainer: ULMFiTTrainer) -> int:
    """Return the layer groups of a language model: of the trainer, or as a base's folder says."""
    if trainer.language_model is not None:
        return len(trainer.language_model.layer_groups())
    if base is None:
        raise InputError("no language model")
    values = json.loads((base / "config.json").read_text())
    return int(values["model"]["n_layers"]) + 1


def answers(
    run: Run, options: argparse.Namespace, work: Path
) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Train a run, or go on, and return its answers; those of a finished run are kept in --work.

    Returns:
        probabilities: of every class for the texts to measure; shape [n, C].
        labels: names of the classes.
        facts: seconds, parameters, perplexity.
    """
    key = hashlib.sha256(json.dumps(run.settings(), sort_keys=True).encode()).hexdigest()[:16]
    kept = options.work / "answers" / f"{key}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            return file["probabilities"], file["names"].tolist(), json.loads(str(file["facts"]))
    found = train_and_answer(run, options, work)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as file:
        np.savez(file, probabilities=found[0], names=np.array(found[1]), facts=json.dumps(found[2]))
    return found


def train_and_answer(
    run: Run, options: argparse.Namespace, work: Path
) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Train a run, or go on; arguments and results as for answers."""
    folder, lm_facts = language_model(run, options)
    config = run.trained_config()
    size, tokenizer = run.size

    def make(**more: Any) -> ULMFiTTrainer:
        if folder is None:
            return ULMFiTTrainer(config, size=size, tokenizer_kind=tokenizer, **more)
        return ULMFiTTrainer.load(folder, config=config, **more)

    trainer = opened(work / "classifier", options, make)
    groups = model_size(size).n_layers + 2 if folder is None else n_groups(folder, trainer) + 1
    epochs = config.classifier.epochs
    plan = classifier_plan(run.variant.classifier, groups, epochs)
    trainer.plans["classifier"] = plan
    valid = run.parts.valid or Labelled([], [])
    result = trainer.train_classifier(
        run.parts.train.texts, run.parts.train.labels, valid.texts or None, valid.labels or None
    )
    began = time.perf_counter()
    found = trainer.predict(run.parts.measured.texts)
    seconds = time.perf_counter() - began
    assert trainer.classifier is not None  # trained above
    probabilities = np.array([[p.probabilities[name] for name in trainer.labels] for p in found])
    facts = {
        "language_model": lm_facts,
        "classifier_seconds": round(result.seconds, 2),
        "train_seconds": round(result.seconds + lm_facts.get("seconds", 0.0), 2),
        "predict_ms_a_text": round(1e3 * seconds / len(found), 4),
        "n_parameters": sum(p.numel() for p in trainer.classifier.parameters()),
        "valid_error": result.best.get("error"),
        "epochs": len(result.epochs),
        "precision": trainer.precision.name,
        "plan": plan_json(plan),
    }
    return probabilities, trainer.labels, facts


def scores(probabilities: np.ndarray, names: list[str], measured: Labelled) -> dict[str, Any]:
    """Return the error of answers, counted, with its interval."""
    right = np.array([names.index(label) if label in names else -1 for label in measured.labels])
    n_wrong = int((probabilities.argmax(axis=1) != right).sum())
    low, high = of_error(n_wrong, len(right))
    return {
        "error": n_wrong / len(right), "n_wrong": n_wrong, "n": len(right),
        "interval": [low, high],
    }  # fmt: skip


def measure(run: Run, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train a run and return its metrics."""
    probabilities, names, facts = answers(run, options, work)
    return {**scores(probabilities, names, run.parts.measured), **facts}


def measure_both(runs: tuple[Run, Run], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train a forward and a backward run and return the metrics of the mean of their answers."""
    found = []
    for direction, run in zip(("forward", "backward"), runs, strict=True):
        folder = work / direction
        folder.mkdir(exist_ok=True)
        found.append(answers(run, options, folder))
    (one, names, facts), (other, _, more) = found
    seconds = {k: round(facts[k] + more[k], 4) for k in ("train_seconds", "predict_ms_a_text")}
    n_parameters = facts["n_parameters"] + more["n_parameters"]
    return {
        **scores((one + other) / 2, names, runs[0].parts.measured),
        **seconds,
        "n_parameters": n_parameters,
        "forward": scores(one, names, runs[0].parts.measured),
        "backward": scores(other, names, runs[1].parts.measured),
        "precision": facts["precision"],
    }
