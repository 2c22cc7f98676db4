"""Texts that are nearly the same, in time that grows with the texts and not with their pairs.

Of each text the smallest of several hashes of its shingles of three words (MinHash). Texts that
agree in the hashes of a band are compared by all their shingles, each with the first text of its
band alone.

Source: A. Broder, On the resemblance and containment of documents, 1997.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .finding import Finding, Hits, Tables, count, share
from .words import Words

#: Shingles that both texts have, of all that either has, from which on they are nearly the same.
ALIKE = 0.8
# A text of fewer words has so few shingles that "How do I ... ?" alone makes it alike.
FEWEST_WORDS = 12
_WORDS_A_SHINGLE = 3
# Of texts that are ALIKE, 1 - (1 - 0.8 ** 2) ** 5 = 99 % agree in a band.
_BANDS, _HASHES_A_BAND = 5, 2
_TEXTS_AT_A_TIME = 1_000

Hashes = npt.NDArray[np.uint64]
_ODD = np.random.default_rng(0).integers(0, 2**63, 3 + _BANDS * _HASHES_A_BAND, dtype=np.uint64)
_ODD = _ODD * np.uint64(2) + np.uint64(1)


def _mixed(numbers: Hashes) -> Hashes:
    """Spread numbers over 64 bits (the end of splitmix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = numbers ^ (numbers >> np.uint64(31))
    return mixed


def _bands(ids: array[int], starts: npt.NDArray[np.int64]) -> Hashes:
    """Return the bands of texts that lie end to end, each of FEWEST_WORDS or more; [n, bands]."""
    words = _mixed(np.frombuffer(ids, np.uint32).astype(np.uint64) * _ODD[0])
    shingles = words.copy()
    for place in (1, 2):
        shingles[:-place] += _ODD[place] * words[place:]
    # A shingle that runs into the next text is not of this one: it may not be the smallest.
    ends = np.append(starts[1:], len(ids))
    over = np.concatenate([ends - 1, ends - 2])
    hashes = []
    for odd in _ODD[3:]:
        mixed = _mixed(shingles * odd)
        mixed[over] = np.iinfo(np.uint64).max
        hashes.append(np.minimum.reduceat(mixed, starts))
    rows = np.stack(hashes, axis=1).reshape(len(starts), _BANDS, _HASHES_A_BAND)
    bands: Hashes = _mixed(rows[:, :, 0] * _ODD[0] + rows[:, :, 1])
    return bands


def near_pairs(words: Words) -> Iterator[tuple[int, int]]:
    """Yield (earlier, text) for each text that is nearly the same as an earlier one.

    Texts with equal keys are left out: they are repeats.
    """
    long = [
        index
        for index, (start, stop) in enumerate(zip(words.offsets, words.offsets[1:], strict=False))
        if stop - start >= FEWEST_WORDS
    ]
    seen: list[dict[int, int]] = [{} for _ in range(_BANDS)]
    known_keys: set[bytes] = set()
    for begin in range(0, len(long), _TEXTS_AT_A_TIME):
        texts = long[begin : begin + _TEXTS_AT_A_TIME]
        ids, starts = array("I"), []
        for index in texts:
            starts.append(len(ids))
            ids.extend(words.ids[words.offsets[index] : words.offsets[index + 1]])
        for index, bands in zip(texts, _bands(ids, np.array(starts)).tolist(), strict=True):
            firsts = {seen[band].setdefault(key, index) for band, key in enumerate(bands)}
            if words.keys[index] in known_keys:
                continue
            known_keys.add(words.keys[index])
            near = (first for first in sorted(firsts - {index}) if _are_alike(words, first, index))
            first = next(near, None)
            if first is not None:
                yield first, index


def _are_alike(words: Words, a: int, b: int) -> bool:
    one, other = _shingles(words, a), _shingles(words, b)
    both = len(one & other)
    return both >= ALIKE * (len(one) + len(other) - both)


def _shingles(words: Words, index: int) -> set[tuple[int, ...]]:
    ids = words.ids[words.offsets[index] : words.offsets[index + 1]]
    return set(zip(*(ids[place:] for place in range(_WORDS_A_SHINGLE)), strict=False))


def find_near_repeats(tables: Tables) -> Iterator[Finding]:
    """Find training texts that are nearly the same as an earlier one."""
    table, hits = tables.train, Hits()
    for first, index in near_pairs(tables.words):
        hits.add(table, index, also=f"nearly row {table.rows[first]}")
    if hits.n:
        yield hits.finding(
            "near-duplicates",
            "warning",
            f"{count(hits.n, 'text is', 'texts are')} nearly the same as an earlier one "
            f"({share(hits.n, len(table.texts))} of the rows)",
            "leave one of each, or keep them on one side of the split: validation and test are "
            "too good otherwise",
        )
