"""Learning rates read off the curve of a range test, as fastai 2.8 reads them.

Each function takes rates, rising, and the loss at each, and returns one of the rates (`minimum`: a
tenth of one). The tests hold them to fastai's own.

Source: fastai/callback/schedule.py (Apache-2.0) defines them; the implementation is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Suggestions:
    """Largest learning rates to train with.

    Attributes:
        valley: two thirds down the longest run of falling losses; the one to take.
        steep: where the loss falls fastest.
        minimum: a tenth of the rate of the smallest loss.
    """

    valley: float
    steep: float
    minimum: float


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestions:
    """Return all suggestions for a curve of at least two points."""
    return Suggestions(valley(rates, losses), steep(rates, losses), minimum(rates, losses))


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate half way through the longest falling subsequence of losses.

    Its begin is taken as its end less its number of losses, as in fastai, so losses that lie
    between without belonging to it shift the place; from there a third and a sixth are gone on.
    A place before the first is the first; fastai's wraps round to the last.
    """
    longest = [1] * len(losses)  # falling subsequence that ends here
    for i, loss in enumerate(losses):
        longest[i] = 1 + max((longest[j] for j in range(i) if loss < losses[j]), default=0)
    end = int(np.argmax(longest))
    start = end - longest[end] if end > 0 else 0
    third = (end - start) / 3
    return float(rates[max(0, start + int(third) + int(third / 2))])


def steep(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate where the loss falls fastest for a factor of the rate."""
    slopes = np.diff(np.asarray(losses)) / np.diff(np.log(np.asarray(rates)))
    return float(rates[int(np.argmin(slopes))])


def minimum(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return a tenth of the rate at which the loss is smallest."""
    return float(rates[int(np.argmin(np.asarray(losses)))]) / 10
