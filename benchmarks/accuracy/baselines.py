"""What ULMFiT is compared with, on the same rows: TF-IDF, a bag of n-grams, fastai, sentences.

Each is fitted to the training rows; the validation rows choose among the settings that its record
lists; the test rows are answered once. Times are of fitting with the chosen setting alone
(`train_seconds`), of the whole search (`search_seconds`), and of answering a text.
"""

from __future__ import annotations

import argparse
import itertools
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .classify import Parts, scores
from .data import Labelled
from .presets import Preset
from .record import Unit, as_json
from .tasks import notes, parts_of, read_dataset, skipped

DATASETS = ("trec", "imdb", "ag")
#: Inverse strengths of the L2 penalty of a logistic regression, least to most.
C_GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
#: With more rows than this an n-gram counts from its second text on: millions of them have one.
MANY_ROWS = 10_000
_TOKEN = re.compile(r"\w+|[^\w\s]")
#: Returns the probabilities [n, C] of texts.
Answer = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """A fitted baseline.

    Attributes:
        answer: answers texts.
        names: classes, in the order of the answers.
        facts: chosen setting and times, for the record.
    """

    answer: Answer
    names: list[str]
    facts: dict[str, Any]


def logistic_regression(
    features: Callable[[Sequence[str]], Any], train: Labelled, valid: Labelled
) -> Fitted:
    """Fit a logistic regression, with the C of C_GRID that is best on the validation rows.

    Args:
        features: of texts; already fitted.
        train: rows to fit to.
        valid: rows to choose by.
    """
    from sklearn.linear_model import LogisticRegression

    began = time.perf_counter()
    x, x_valid = features(train.texts), features(valid.texts)
    feature_seconds = time.perf_counter() - began
    errors, models, seconds = {}, {}, {}
    for c in C_GRID:
        start = time.perf_counter()
        model = LogisticRegression(C=c, max_iter=1000).fit(x, train.labels)
        seconds[c] = time.perf_counter() - start
        errors[c] = 1 - float(model.score(x_valid, valid.labels))
        models[c] = model
    best = min(C_GRID, key=lambda c: (errors[c], c))
    return Fitted(
        lambda texts: models[best].predict_proba(features(texts)),
        [str(name) for name in models[best].classes_],
        {
            "chosen": {"C": best},
            "valid_error": errors[best],
            "valid_errors": {str(c): errors[c] for c in C_GRID},
            "train_seconds": seconds[best] + feature_seconds,
            "search_seconds": time.perf_counter() - began,
            "n_parameters": int(models[best].coef_.size + models[best].intercept_.size),
        },
    )


def fit_tfidf(parts: Parts, seed: int) -> Fitted:
    """Fit TF-IDF of words and pairs of words, and a logistic regression; nothing is random."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    began = time.perf_counter()
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=_TOKEN.pattern,
        min_df=2 if len(parts.train) > MANY_ROWS else 1,
    )  # fmt: skip
    vectorizer.fit(parts.train.texts)
    seconds = time.perf_counter() - began
    fitted = logistic_regression(vectorizer.transform, parts.train, valid_of(parts))
    fitted.facts["train_seconds"] += seconds
    return fitted


@dataclass(frozen=True)
class NGramSettings:
    """The bag of n-grams: fastText's model (Joulin et al. 2016, arXiv:1607.01759), in torch.

    Attributes:
        buckets: of the hash of words and pairs of words.
        size: of an n-gram's vector; a text's is their mean.
        batch_size: texts of a step.
        lr: of Adam, falling in a straight line to 0.
        epochs: at most; the best by validation is kept.
    """

    buckets: int = 1 << 18
    size: int = 32
    batch_size: int = 32
    lr: float = 0.005
    epochs: int = 12


class NGrams(nn.Module):
    """Mean of the vectors of hashed words and pairs of words, then a softmax."""

    def __init__(self, settings: NGramSettings, n_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.vectors = nn.EmbeddingBag(settings.buckets, settings.size, mode="mean", sparse=True)
        nn.init.uniform_(self.vectors.weight, -1 / settings.size, 1 / settings.size)
        self.softmax = nn.Linear(settings.size, n_classes)
        nn.init.zeros_(self.softmax.weight)

    def ids(self, text: str) -> Tensor:
        """Return the buckets of a text's words and pairs of words; int64, never empty."""
        words = _TOKEN.findall(text.lower()) or [""]
        grams = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
        hashes = (zlib.crc32(gram.encode("utf-8", "replace")) for gram in grams)
        return torch.tensor([number % self.settings.buckets for number in hashes])

    def forward(self, rows: Sequence[Tensor]) -> Tensor:
        """Return logits [B, C] of the buckets of B texts."""
        lengths = torch.tensor([0, *map(len, rows[:-1])]).cumsum(0)
        logits: Tensor = self.softmax(self.vectors(torch.cat(list(rows)), lengths))
        return logits

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probabilities [n, C] of texts."""
        batches = [texts[i : i + 256] for i in range(0, len(texts), 256)]
        return torch.cat([self([self.ids(t) for t in b]).softmax(1) for b in batches]).numpy()


def fit_ngrams(parts: Parts, seed: int, settings: NGramSettings | None = None) -> Fitted:
    """Fit the bag of n-grams; the epoch is chosen by the validation rows."""
    settings = settings or NGramSettings()
    names = sorted(set(parts.train.labels))
    valid = valid_of(parts)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NGrams(settings, len(names))
        rows = [model.ids(text) for text in parts.train.texts]
        labels = torch.tensor([names.index(label) for label in parts.train.labels])
        sparse = torch.optim.SparseAdam(model.vectors.parameters(), lr=settings.lr)
        dense = torch.optim.Adam(model.softmax.parameters(), lr=settings.lr)
        n_steps = settings.epochs * -(-len(rows) // settings.batch_size)
        errors: list[float] = []
        best: dict[str, Tensor] = {}
        for step in range(n_steps):
            if step % (n_steps // settings.epochs) == 0:
                order = torch.randperm(len(rows)).split(settings.batch_size)
            picked = order[step % (n_steps // settings.epochs)]
            for optimizer in (sparse, dense):
                optimizer.param_groups[0]["lr"] = settings.lr * (1 - step / n_steps)
                optimizer.zero_grad()
            logits = model([rows[i] for i in picked.tolist()])
            nn.functional.cross_entropy(logits, labels[picked]).backward()
            sparse.step()
            dense.step()
            if (step + 1) % (n_steps // settings.epochs) == 0:
                found = scores(model.probabilities(valid.texts), names, valid)["error"]
                if not errors or found < min(errors):
                    best = {k: v.clone() for k, v in model.state_dict().items()}
                errors.append(found)
        model.load_state_dict(best)
    seconds = time.perf_counter() - began
    facts = {
        "chosen": {"epochs": errors.index(min(errors)) + 1},
        "valid_error": min(errors),
        "train_seconds": seconds,
        "search_seconds": seconds,
        "n_parameters": sum(p.numel() for p in model.parameters()),
    }
    return Fitted(model.probabilities, names, facts)


def valid_of(parts: Parts) -> Labelled:
    """Return the validation rows, which every baseline chooses by."""
    assert parts.valid is not None  # of tasks.parts_of
    return parts.valid


def measure(fit: Callable[[Parts, int], Fitted], parts: Parts, seed: int) -> dict[str, Any]:
    """Fit a baseline and answer the texts to measure, once."""
    fitted = fit(parts, seed)
    began = time.perf_counter()
    found = fitted.answer(parts.measured.texts)
    seconds = time.perf_counter() - began
    return {
        **scores(found, fitted.names, parts.measured),
        **as_json(fitted.facts),
        "predict_ms_a_text": round(1e3 * seconds / len(found), 4),
    }


def fits(options: argparse.Namespace, preset: Preset) -> dict[str, Any]:
    """Return every baseline: how it is fitted, or, as text, why it cannot be."""
    from . import fastai_baseline, sentences

    found: dict[str, Any] = dict.fromkeys(("tfidf", "ngrams", "fastai"))
    missing = "scikit-learn is not installed" if find_spec("sklearn") is None else None
    found["tfidf"] = missing or fit_tfidf
    found["ngrams"] = fit_ngrams
    found["fastai"] = (
        partial(fastai_baseline.fit, preset=preset, device=options.device)
        if find_spec("fastai")
        else "fastai is not installed"
    )
    found["sentences"] = missing or sentences.WHY_NOT
    if options.sentence_model is not None and not missing:
        found["sentences"] = partial(sentences.fit, folder=options.sentence_model)
    return found


def units(options: argparse.Namespace, preset: Preset) -> Iterator[Unit]:
    """Yield every baseline on every data set; what is not random has one seed."""
    from . import sentences

    for name in DATASETS:
        if options.dataset and name not in options.dataset:
            continue
        data = read_dataset(options, name)
        parts = parts_of(data, preset)
        for baseline, fit in fits(options, preset).items():
            if isinstance(fit, str):
                skipped(f"baselines {name} {baseline}", fit)
                continue
            is_random = baseline in ("ngrams", "fastai")
            seeds = options.seeds or range(preset.n_seeds if is_random else 1)
            for seed in seeds if is_random else seeds[:1]:
                settings: dict[str, Any] = {"baseline": baseline, "parts": parts.content()}
                settings["numbers"] = {
                    "tfidf": {"C": C_GRID, "n_grams": 2, "many_rows": MANY_ROWS},
                    "ngrams": asdict(NGramSettings()),
                }.get(baseline)
                if baseline == "fastai":
                    settings["preset"] = preset.to_dict()
                if baseline == "sentences":
                    settings["model"] = sentences.hash_of(options.sentence_model)
                yield Unit(
                    "baselines", name, baseline, preset.name, seed, {**settings, **notes(data)},
                    lambda work, f=fit, p=parts, s=seed: measure(f, p, s),
                )  # fmt: skip
