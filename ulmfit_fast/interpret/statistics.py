"""Intervals for counted results, and whether probabilities mean what they say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination import Calibration, CalibrationBin, ClassScores

Z_95 = 1.959964  # standard deviations that 95 % of a normal distribution lie within
#: Resamplings of the bootstrap: the ends of an interval then move by about 1 % of its width.
N_RESAMPLES = 2000
N_BINS = 10

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def check_probabilities(probabilities: npt.NDArray[np.floating]) -> None:
    """Raise InputError if some of the probabilities [n, C] are not numbers."""
    n_bad = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if n_bad:
        raise InputError(
            f"the classifier's probabilities of {n_bad:,} of {len(probabilities):,} texts are not "
            "numbers (nan): its weights are damaged; train it again at a lower learning rate"
        )


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share from n_right of n independent trials.

    Source: Wilson 1927, JASA 22, 209-212: unlike the normal interval it is right for shares near
    0 and 1, and never leaves [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    share = n_right / n
    scale = 1 + Z_95**2 / n
    middle = (share + Z_95**2 / (2 * n)) / scale
    half = Z_95 / scale * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def count_confusion(labels: Counts, answers: Counts, n_classes: int) -> Counts:
    """Return how often each class (row) got each answer (column); shape [C, C]."""
    pairs = labels * n_classes + answers
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def f1_intervals(
    confusion: Counts, *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[tuple[float, float]]:
    """Return the 95 % percentile bootstrap interval of each class's F1.

    To draw n texts anew with replacement is to draw the four counts of a class (found, missed,
    wrongly answered, all else), on which alone its F1 depends, from a multinomial distribution: the
    same intervals as with resampled texts, in 4 C draws a resampling in place of n.

    Args:
        confusion: of count_confusion; shape [C, C].
        n_resamples: drawn data sets.
        seed: the same gives the same intervals.

    Returns:
        intervals: of each class; (0, 1) of a class that neither occurs nor is answered. Of one
            that is always or never found the bounds are those of Wilson's intervals.

    Source: Efron 1979, Annals of Statistics 7, 1-26.
    """
    n = int(confusion.sum())
    found = confusion.diagonal()
    missed, wrong = confusion.sum(axis=1) - found, confusion.sum(axis=0) - found
    cells = np.stack([found, missed, wrong, n - found - missed - wrong], axis=1)  # [C, 4]
    draw = np.random.default_rng(seed)
    drawn = draw.multinomial(n, cells / max(n, 1), size=(n_resamples, len(cells)))
    counted = 2 * drawn[..., 0] + drawn[..., 1] + drawn[..., 2]  # [resamplings, C]
    f1 = 2 * drawn[..., 0] / np.maximum(counted, 1)
    low, high = np.quantile(f1, [0.025, 0.975], axis=0)
    drawn_intervals = zip(low.tolist(), high.tolist(), strict=True)
    counts = zip(found.tolist(), missed.tolist(), wrong.tolist(), strict=True)
    return [_at_the_ends(*each, *of) for each, of in zip(drawn_intervals, counts, strict=True)]


def _at_the_ends(
    low: float, high: float, found: int, missed: int, wrong: int
) -> tuple[float, float]:
    """Return an interval that is not a point where all or nothing is right.

    There every resampling has the same F1. Wilson's bounds of precision and recall take its place.
    """
    if found == missed == wrong == 0:
        return 0.0, 1.0
    if missed == wrong == 0:
        return wilson_interval(found, found)[0], 1.0
    if found == 0:
        precision = wilson_interval(0, wrong)[1] if wrong else 1.0
        recall = wilson_interval(0, missed)[1] if missed else 1.0
        return 0.0, 2 * precision * recall / (precision + recall)
    return low, high


def class_scores(
    confusion: Counts, names: tuple[str, ...], *, seed: int = 0
) -> tuple[ClassScores, ...]:
    """Return precision, recall and F1 of each class, 0 where undefined, with 95 % intervals."""
    intervals = f1_intervals(confusion, seed=seed)
    scores = []
    for index, name in enumerate(names):
        found = int(confusion[index, index])
        n, n_answered = int(confusion[index].sum()), int(confusion[:, index].sum())
        scores.append(
            ClassScores(
                name=name,
                n=n,
                precision=found / n_answered if n_answered else 0.0,
                precision_interval=wilson_interval(found, n_answered),
                recall=found / n if n else 0.0,
                recall_interval=wilson_interval(found, n),
                f1=2 * found / (n + n_answered) if n + n_answered else 0.0,
                f1_interval=intervals[index],
            )
        )
    return tuple(scores)


def calibrate(probabilities: Floats, labels: Counts, *, n_bins: int = N_BINS) -> Calibration:
    """Compare the probabilities of answers with how often they are right.

    Args:
        probabilities: of every class; shape [n, C], rows summing to 1, n at least 1.
        labels: class of each text; shape [n].
        n_bins: of equal width; a probability of 1 is in the last.

    Raises:
        InputError: a probability is not a number.

    Source: Guo et al. 2017, arXiv:1706.04599 (expected calibration error); Brier 1950, Monthly
        Weather Review 78, 1-3 (mean over texts of the squared errors summed over classes).
    """
    check_probabilities(probabilities)
    n = len(labels)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    confidences = np.bincount(place, weights=confidence, minlength=n_bins)
    rights = np.bincount(place, weights=right, minlength=n_bins)
    bins = tuple(
        CalibrationBin(
            low=k / n_bins,
            high=(k + 1) / n_bins,
            n=int(counts[k]),
            confidence=float(confidences[k] / counts[k]) if counts[k] else math.nan,
            accuracy=float(rights[k] / counts[k]) if counts[k] else math.nan,
        )
        for k in range(n_bins)
    )
    own = probabilities[np.arange(n), labels]
    brier = np.square(probabilities).sum(axis=1) - 2 * own + 1  # sum of (p - [c is label])^2
    return Calibration(
        bins=bins,
        expected_error=float(np.abs(rights - confidences).sum() / n),
        brier=float(brier.mean()),
    )


def cross_entropy(probabilities: Floats, labels: Counts) -> float:
    """Return the mean of -log p of the labels' classes, nats a text; float64's least p at 0.

    Raises:
        InputError: a probability is not a number.
    """
    check_probabilities(probabilities)
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())
