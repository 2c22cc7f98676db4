"""A general-domain language model from the Wikipedia parts, without what overlaps WikiText's tests.

`prepare` counts words, makes the vocabulary and writes the ids, once, on any machine; `pretrain`
reads them and trains. One article in a hundred, chosen by its id, is for validation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.errors import InputError
from ulmfit_fast.model import LanguageModel
from ulmfit_fast.text.batches import LMStream
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ulmfit_fast.training.device import choose_device
from ulmfit_fast.training.precision import choose_precision
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.sizes import model_size, new_language_model
from ulmfit_fast.training.stages import Stage, Stages, corpus_hash
from ulmfit_fast.training.tasks import LanguageModelTask

from . import wikitext_words
from .classify import Epochs, hash_of
from .data import WIKI_PARTS, excluded_ids, read_text, reversed_words, wiki_articles
from .presets import Preset
from .record import Unit, say
from .tasks import skipped

VALID_ONE_IN, QUICK_VALID_ONE_IN = 100, 5
#: Articles of each part with --quick, and parts that the tiny preset reads.
QUICK_ARTICLES = 30
TINY_PARTS = ("AA",)
#: Written last: what it stands beside is whole.
FACTS = "prepared.json"
WIKITEXT_PARTS = ("valid", "test")


@dataclass(frozen=True)
class Prepared:
    """Ids on disk.

    Attributes:
        folder: where.
        tokenizer: that made them.
        train: articles to train on.
        valid: articles to measure on.
        facts: where they come from.
    """

    folder: Path
    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus
    facts: dict[str, Any]


def is_for_validation(number: str, one_in: int = VALID_ONE_IN) -> bool:
    """Say whether an article is held out, as one in so many is; by its id, so in every run."""
    digest = hashlib.sha256(number.encode()).digest()
    return int.from_bytes(digest[:4], "big") % one_in == 0


class Articles:
    """The articles of the parts, read anew at every pass.

    Args:
        options: of the driver: data, quick, direction.
        parts: names of the parts.
        held_out: the articles for validation, or the others.
    """

    def __init__(self, options: argparse.Namespace, parts: tuple[str, ...], held_out: bool) -> None:
        self.options, self.parts, self.held_out = options, parts, held_out
        self._n: int | None = None

    def __iter__(self) -> Iterator[str]:
        one_in = QUICK_VALID_ONE_IN if self.options.quick else VALID_ONE_IN
        for part in self.parts:
            for n, (number, text) in enumerate(wiki_articles(self.options.data, [part])):
                if self.options.quick and n >= QUICK_ARTICLES:
                    break
                if is_for_validation(number, one_in) == self.held_out:
                    backward = self.options.direction == "backward"
                    yield reversed_words(text) if backward else text

    def __len__(self) -> int:
        if self._n is None:
            self._n = sum(1 for _ in self)
        return self._n


def parts_of(options: argparse.Namespace, preset: Preset) -> tuple[str, ...]:
    """Return the Wikipedia parts that a preset reads: --parts, or all; tiny the first."""
    if options.parts:
        return tuple(options.parts)
    return TINY_PARTS if preset.name.startswith("tiny") else WIKI_PARTS


def folder_of(options: argparse.Namespace, preset: Preset) -> Path:
    """Return where the ids of a preset stand."""
    parts = "-".join(parts_of(options, preset))
    kind = f"{preset.tokenizer}-{preset.max_vocab}"
    quick = "-quick" if options.quick else ""
    folder: Path = options.work / "wiki" / f"{kind}-{parts}-{options.direction}{quick}"
    return folder


def prepare(options: argparse.Namespace, preset: Preset) -> Prepared:
    """Write the ids of the Wikipedia parts, or open those that are there.

    Raises:
        InputError: a part is missing.
    """
    folder, parts = folder_of(options, preset), parts_of(options, preset)
    facts_file = folder / FACTS
    if not facts_file.is_file():
        train, valid = (Articles(options, parts, held_out) for held_out in (False, True))
        say(f"prepare: counting the words of {', '.join(parts)}")
        config = preset.config(0)
        tokenizer = train_tokenizer(
            train, kind=preset.tokenizer, max_vocab=preset.max_vocab, min_freq=config.min_freq
        )
        tokenizer.save(folder / "tokenizer.json")
        found: dict[str, Any] = {"parts": list(parts), "direction": options.direction}
        for name, texts in (("train", train), ("valid", valid)):
            say(f"prepare: writing ids to {name}")
            cache = folder / name
            shutil.rmtree(cache, ignore_errors=True)
            if not len(texts):
                raise InputError(f"{', '.join(parts)}: no article for {name}: give --parts more")
            corpus = Corpus.build(texts, tokenizer, cache)
            found[name] = {
                "n_articles": len(corpus), "n_tokens": corpus.n_tokens,
                "sha256": corpus_hash(corpus)[:16],
            }  # fmt: skip
        found["n_excluded_ids"] = len(excluded_ids(options.data))
        found["vocabulary"] = len(tokenizer.vocab)
        facts_file.write_text(json.dumps(found, indent=1))
    return Prepared(
        folder, load_tokenizer(folder / "tokenizer.json"), opened(folder / "train"),
        opened(folder / "valid"), json.loads(facts_file.read_text()),
    )  # fmt: skip


def opened(cache: Path) -> Corpus:
    """Map the one corpus of a cache folder; its layout is that of text/corpus.py.

    Raises:
        InputError: it is not there.
    """
    entries = [entry for entry in sorted(cache.glob("*")) if (entry / "meta.json").is_file()]
    if len(entries) != 1:
        raise InputError(f"{cache}: has {len(entries)} corpora: delete its folder and prepare anew")
    offsets = np.fromfile(entries[0] / "offsets.bin", dtype=np.int64)
    return Corpus(np.memmap(entries[0] / "ids.bin", dtype=np.int32, mode="r"), offsets)


def config_of(preset: Preset, seed: int) -> TrainConfig:
    """Return the settings of pretraining."""
    config = preset.config(seed).with_stage("pretrain", epochs=preset.pretrain_epochs)
    return config.with_stage("pretrain", batch_size=32) if preset.size == "tiny" else config


def train(
    prepared: Prepared, options: argparse.Namespace, preset: Preset, seed: int, work: Path
) -> tuple[ULMFiTTrainer, dict[str, Any]]:
    """Train the language model, or go on, and save it.

    Returns:
        trainer: with the model.
        facts: seconds, tokens and epochs.
    """
    config, device = config_of(preset, seed), choose_device(options.device)
    settings = config.pretrain
    size = model_size(preset.size)
    variable = config.variable_bptt

    def make_model(tokenizer: Tokenizer) -> LanguageModel:
        dropouts = settings.dropouts.scaled(size.drop_mult)
        return new_language_model(size, tokenizer, dropouts).to(device)

    def make_task(model: LanguageModel, tokenizer: Tokenizer) -> LanguageModelTask:
        stream = partial(LMStream, batch_size=settings.batch_size, bptt=config.bptt)
        return LanguageModelTask(
            model, stream(prepared.train, seed=seed, variable=variable),
            stream(prepared.valid, seed=0, shuffle=False), config, "pretrain",
        )  # fmt: skip

    names = [prepared.facts[part]["sha256"] for part in ("train", "valid")]
    stage = Stage(
        "pretrain", config, [names], from_scratch=True, tokenizer=lambda: prepared.tokenizer,
        model=make_model, task=make_task,
    )  # fmt: skip
    checkpoints = Checkpoints(
        work / "checkpoints", options.checkpoint_every, how_to_go_on="the same command again"
    )
    checkpoints.find()
    described = {
        "config": config.to_dict(), "size": preset.size, "tokenizer_kind": preset.tokenizer,
        "device": device.type, "cuda_graphs": False,
    }  # fmt: skip
    outcome = Stages(checkpoints, described).run(stage, device, [Epochs()], None)
    trainer = ULMFiTTrainer(
        config, size=preset.size, tokenizer_kind=preset.tokenizer, device=options.device
    )
    assert isinstance(outcome.model, LanguageModel)  # the stage is the last of its folder
    trainer.tokenizer, trainer.language_model = outcome.tokenizer, outcome.model
    trainer.save(base_of(options, preset, seed), "language_model")
    return trainer, {
        "train_seconds": round(outcome.result.seconds, 2),
        "n_tokens": outcome.result.n_tokens,
        "tokens_per_s": round(outcome.result.n_tokens / outcome.result.seconds, 1),
        "n_parameters": sum(p.numel() for p in outcome.model.parameters()),
        "valid_piece_perplexity": outcome.result.best["perplexity"],
        "epochs": outcome.result.epochs,
    }


def base_of(options: argparse.Namespace, preset: Preset, seed: int) -> Path:
    """Return the folder of the model that is made: what --base takes."""
    folder: Path = options.work / "bases" / f"{preset.name}-{options.direction}-seed{seed}"
    return folder


def on_wikitext(trainer: ULMFiTTrainer, options: argparse.Namespace) -> dict[str, Any]:
    """Return the perplexities a word on WikiText-2's validation and test parts."""
    assert trainer.language_model is not None
    assert trainer.tokenizer is not None
    precision = choose_precision("auto", choose_device(options.device))
    found: dict[str, Any] = {"precision": precision.name}
    for part in WIKITEXT_PARTS:
        text = read_text(options.data, f"wikitext-2_{part}.txt")
        text = "\n".join(text.split("\n")[:60]) if options.quick else text
        measured = wikitext_words.measure(
            trainer.language_model, trainer.tokenizer, text, precision,
            streams=wikitext_words.STREAMS,
        )  # fmt: skip
        found[f"{part}_word_perplexity"] = measured["word_perplexity"]
        found[part] = measured
    return found


def units(options: argparse.Namespace, preset: Preset) -> Iterator[Unit]:
    """Yield the pretraining, and the evaluation of --base where one is given."""
    if options.task == "list" and not (folder_of(options, preset) / FACTS).is_file():
        skipped("pretrain", "the ids are not there yet: prepare makes them")
        return
    prepared = prepare(options, preset)
    for seed in options.seeds or (0,):
        settings = {
            "train": config_of(preset, seed).to_dict(), "size": preset.size,
            "prepared": prepared.facts,
        }  # fmt: skip

        def measure(work: Path, seed: int = seed) -> dict[str, Any]:
            trainer, facts = train(prepared, options, preset, seed, work)
            return {**facts, **on_wikitext(trainer, options)}

        variant = f"wikipedia-{options.direction}"
        yield Unit("pretrain", "wikitext-2", variant, preset.name, seed, settings, measure)


def base_units(options: argparse.Namespace, preset: Preset) -> Iterator[Unit]:
    """Yield the evaluation of a base that was trained elsewhere."""
    if options.base is None:
        skipped("base", "no pretrained model to measure; give --base FOLDER")
        return
    trainer = ULMFiTTrainer.load(options.base, device=options.device)
    model = trainer.language_model
    if model is None:
        raise InputError(f"{options.base}: is a classifier: give a language model to --base")

    def measure(work: Path) -> dict[str, Any]:
        n_parameters = sum(p.numel() for p in model.parameters())
        return {"n_parameters": n_parameters, **on_wikitext(trainer, options)}

    settings = {
        "base": hash_of(options.base),
        "size": trainer.size,
        "tokenizer": trainer.tokenizer_kind,
    }
    yield Unit("base", "wikitext-2", trainer.size, "given", 0, settings, measure)
