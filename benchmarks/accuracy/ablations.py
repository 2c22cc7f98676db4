"""Tables 4 to 7 of the paper on TREC-6 and a part of IMDb, without the test sets.

A tenth of the training rows chooses the best epoch, another is measured: the paper measures on the
part that it chooses by, which flatters. IMDb's part has 2,000 rows; another 5,000 training rows are
measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from .classify import Parts, Run, measure
from .data import Dataset
from .plans import VARIANTS
from .presets import Preset
from .record import Unit
from .splits import SPLIT_SEED, draw, split
from .tasks import config_of, notes, read_dataset, skipped

DATASETS = ("trec", "imdb")
IMDB_ROWS, IMDB_MEASURED = 2000, 5000


def parts_of(found: Dataset, *, quick: bool) -> Parts:
    """Return rows to train on, to choose by and to measure, disjoint, all from the training set."""
    rows = found.train
    if found.name == "imdb":
        share = (IMDB_ROWS + IMDB_MEASURED) / len(rows)
        rows = split(rows, share)[0] if share < 1 else rows
        measured_share = IMDB_MEASURED / (IMDB_ROWS + IMDB_MEASURED)
        measured, rest = split(rows, measured_share)
        valid, train = split(rest, 0.1)
    else:
        measured, valid, train = split(rows, 0.1, 0.1)
    if quick:
        train, valid, measured = (draw(part, 40, SPLIT_SEED) for part in (train, valid, measured))
    return Parts(train, valid, measured, train.texts)


def units(options: argparse.Namespace, preset: Preset) -> Iterator[Unit]:
    """Yield every variant on every data set with every seed."""
    for name in DATASETS:
        if options.dataset and name not in options.dataset:
            continue
        found = read_dataset(options, name)
        parts = parts_of(found, quick=options.quick)
        for seed in options.seeds or range(preset.n_seeds):
            config = config_of(preset, seed, parts, preset.ablation_epochs)
            for variant, what in VARIANTS.items():
                if what.needs_base and options.base is None:
                    skipped(f"ablations {name} {variant}", "no pretrained model; give --base")
                    continue
                run = Run(parts, config, what, (preset.size, preset.tokenizer), options.base)
                yield Unit(
                    "ablations", name, variant, preset.name, seed,
                    {**run.settings(), **notes(found)},
                    lambda work, run=run: measure(run, options, work),
                )  # fmt: skip
