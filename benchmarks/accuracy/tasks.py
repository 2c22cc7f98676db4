"""TREC-6, IMDb and AG News: the test error of ULMFiT, in one direction and in both."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ulmfit_fast import TrainConfig

from .classify import Parts, Run, measure, measure_both
from .data import READERS, Dataset, Labelled
from .plans import VARIANTS
from .presets import Preset
from .record import Unit, as_json, say
from .splits import SPLIT_SEED, draw, split

VALID_SHARE = 0.1
MAIN_VARIANTS = ("ulmfit", "no-pretraining", "from-scratch")
QUICK_TEST_ROWS = 40


def read_dataset(options: argparse.Namespace, name: str) -> Dataset:
    """Read a data set; a few rows of each part with --quick."""
    found = READERS[name](options.data)
    if not options.quick:
        return found
    test = draw(found.test, QUICK_TEST_ROWS, SPLIT_SEED)
    return Dataset(name, found.train, test, found.unlabelled, found.notes)


def limited(rows: Labelled, n: int | None) -> Labelled:
    """Return at most about n rows, always the same, every class in its share."""
    return rows if n is None or len(rows) <= n else draw(rows, n, SPLIT_SEED)


def train_parts(found: Dataset, preset: Preset) -> tuple[Labelled, Labelled]:
    """Return the rows to train on and those that settings and epochs are chosen by."""
    valid, train = split(limited(found.train, preset.rows.get(found.name)), VALID_SHARE)
    return train, valid


def parts_of(found: Dataset, preset: Preset) -> Parts:
    """Return the parts of a figure on the test set."""
    train, valid = train_parts(found, preset)
    texts = [*train.texts, *found.unlabelled][: preset.rows.get(found.name)]
    return Parts(train, valid, found.test, texts)


def config_of(preset: Preset, seed: int, parts: Parts, epochs: int | None = None) -> TrainConfig:
    """Return the settings of a preset for these parts."""
    return preset.config_for(seed, parts.language_model, len(parts.train), epochs)


def skipped(what: str, why: str) -> None:
    """Say what is not measured, and why."""
    say(f"{what}: left out: {why}")


def units(options: argparse.Namespace, preset: Preset, name: str) -> Iterator[Unit]:
    """Yield the figures of a data set."""
    found = read_dataset(options, name)
    parts = parts_of(found, preset)
    size = preset.size, preset.tokenizer
    for seed in options.seeds or (0,):
        config = config_of(preset, seed, parts)
        for variant in MAIN_VARIANTS:
            if VARIANTS[variant].needs_base and options.base is None:
                skipped(f"{name} {variant}", "no pretrained model; give --base FOLDER")
                continue
            run = Run(parts, config, VARIANTS[variant], size, options.base)
            yield Unit(
                name, name, variant, preset.name, seed, {**run.settings(), **notes(found)},
                lambda work, run=run: measure(run, options, work),
            )  # fmt: skip
        if options.base is not None and options.base_backward is not None:
            yield both(options, preset, found, seed)


def both(options: argparse.Namespace, preset: Preset, found: Dataset, seed: int) -> Unit:
    """Return the figure of the mean of a forward and a backward model."""
    parts, size = parts_of(found, preset), (preset.size, preset.tokenizer)
    base: Path = options.base_backward
    runs = (
        Run(parts, config_of(preset, seed, parts), VARIANTS["ulmfit"], size, options.base),
        Run(parts.backward(), config_of(preset, seed, parts), VARIANTS["ulmfit"], size, base),
    )
    settings = {"forward": runs[0].settings(), "backward": runs[1].settings(), **notes(found)}
    return Unit(
        found.name, found.name, "ulmfit-both", preset.name, seed, settings,
        lambda work: measure_both(runs, options, work),
    )  # fmt: skip


def notes(found: Dataset) -> dict[str, dict[str, int]]:
    """Return what the record says of the data."""
    return {"data": dict(as_json(found.notes))}
