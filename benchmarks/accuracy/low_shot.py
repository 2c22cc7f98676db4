"""Figure 3 of the paper: error against the number of labels.

    from-scratch     a classifier alone, on the labelled texts
    supervised       the language model sees the labelled texts only
    semi-supervised  the language model sees all training texts

The paper chooses epochs by a validation part of a tenth of the training set, many times the labels
of the curve's left end. Here nothing is chosen: the last weights are measured, on a tenth of the
training set that nothing trains on. Each seed draws its own labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from ulmfit_fast.training.defaults import with_stage_length

from .ablations import IMDB_MEASURED
from .classify import Parts, Run, measure
from .data import Dataset, Labelled
from .plans import VARIANTS
from .presets import Preset
from .record import Unit
from .splits import SPLIT_SEED, draw, split
from .tasks import config_of, notes, read_dataset, skipped

DATASETS = ("trec", "imdb")
KINDS = {"from-scratch": "from-scratch", "supervised": "ulmfit", "semi-supervised": "ulmfit"}


def pools(found: Dataset, *, quick: bool) -> tuple[Labelled, Labelled]:
    """Return the rows that are measured and those that labels are drawn from."""
    share = 0.1 if found.name != "imdb" else IMDB_MEASURED / len(found.train)
    measured, pool = split(found.train, min(share, 0.5))
    return (draw(measured, 40, SPLIT_SEED) if quick else measured), pool


def units(options: argparse.Namespace, preset: Preset) -> Iterator[Unit]:
    """Yield every kind with every number of labels and every seed."""
    for name in DATASETS:
        if options.dataset and name not in options.dataset:
            continue
        found = read_dataset(options, name)
        measured, pool = pools(found, quick=options.quick)
        all_texts = [*pool.texts, *found.unlabelled][: preset.rows.get(name)]
        for seed in options.seeds or range(preset.n_seeds):
            for shots in (n for n in preset.shots if n < len(pool)):
                train = draw(pool, shots, seed)
                for kind, variant in KINDS.items():
                    if VARIANTS[variant].needs_base and options.base is None:
                        skipped(f"low-shot {name} {kind}", "no pretrained model; give --base")
                        continue
                    texts = all_texts if kind == "semi-supervised" else train.texts
                    yield unit(
                        options, preset, kind, Parts(train, None, measured, texts), found, seed
                    )


def unit(
    options: argparse.Namespace, preset: Preset, kind: str, parts: Parts, found: Dataset, seed: int
) -> Unit:
    """Return one point of one curve."""
    config = config_of(preset, seed, parts, preset.ablation_epochs)
    # Batches small enough that a hundred labels make some steps, in "paper" too.
    config = with_stage_length(config, "classifier", None, None, len(parts.train))
    config = replace(config, patience=0)
    run = Run(parts, config, VARIANTS[KINDS[kind]], (preset.size, preset.tokenizer), options.base)
    shots = len(parts.train)
    return Unit(
        "low-shot", found.name, f"{kind}-{shots:05d}", preset.name, seed,
        {**run.settings(), **notes(found), "kind": kind, "labels": shots},
        lambda work: measure(run, options, work),
    )  # fmt: skip
