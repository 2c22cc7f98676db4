"""The vocabulary: how often words occur, and which tokens get an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sized

from ..errors import InputError
from .messages import unpack_counts
from .rules import SPECIALS, apply_rules
from .segment import chunks_of, cut_chunk
from .workers import work_on

FAKE = "xxfake"
"""Fills the vocabulary up to a multiple of 8; no text ever gets its id."""

MOST_WORDS = 1_000_000
"""Distinct words that are counted at a time: about 150 MB."""

Progress = Callable[[int, int], None]
"""Told how many texts are done, and of how many (0 where that is not known)."""


def check_texts(texts: Iterable[str]) -> None:
    """Raise InputError for one string, whose characters would pass for texts."""
    if isinstance(texts, str):
        found = f"found one string; write [{texts[:20]!r}]"
        raise InputError(f"texts: expected a list of texts, {found}")


def count_block(texts: Iterable[str]) -> Counter[str]:
    """Count the word tokens of some texts, in the order in which they first occur."""
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(chunks_of(apply_rules(text)))
    counts: Counter[str] = Counter()
    for chunk, n in chunks.items():
        for token in cut_chunk(chunk):
            counts[token] += n
    return counts


def count_words(
    texts: Iterable[str],
    *,
    most: int = MOST_WORDS,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Counter[str]:
    """Count the word tokens of texts, in the order in which they first occur.

    Counts are exact up to `most` distinct words. Beyond, the rarest are forgotten as often as
    needed to keep half of that many, and start at zero where they come again; memory is bounded.

    Args:
        texts: one document each, read once.
        most: distinct words to count at a time.
        processes: as for `Corpus.build`.
        progress: told after each block of texts.
    """
    counts: Counter[str] = Counter()
    n_done, n_texts = 0, len(texts) if isinstance(texts, Sized) else 0

    def count_here(block: list[str]) -> tuple[Mapping[str, int], int]:
        return count_block(block), len(block)

    for found, n in work_on(texts, count_here, (bytes, unpack_counts), processes):
        counts.update(found)
        if len(counts) > most:
            counts = _without_rarest(counts, most // 2)
        n_done += n
        if progress is not None:
            progress(n_done, n_texts)
    return counts


def _without_rarest(counts: Counter[str], n_kept: int) -> Counter[str]:
    """Drop the words seen once, then twice, ... until at most n_kept are left."""
    of_a_count = Counter(counts.values())
    n_left, floor = len(counts), 0
    while n_left > n_kept:
        floor += 1
        n_left -= of_a_count[floor]
    return Counter({word: n for word, n in counts.items() if n > floor})


def make_vocab(counts: Counter[str], *, max_vocab: int = 60_000, min_freq: int = 3) -> list[str]:
    """List the tokens in the order of their ids, as fastai's `make_vocab` does.

    The special tokens come first, then the most frequent ones; of equally frequent tokens the one
    counted first. The list is cut to max_vocab and then padded with `xxfake` to the next multiple
    of 8 (one to eight of them: 60000 becomes 60008).

    Args:
        counts: how often each token occurs.
        max_vocab: most tokens to keep, specials included, padding not.
        min_freq: fewest occurrences of a token to keep.
    """
    frequent = [token for token, n in counts.most_common(max_vocab) if n >= min_freq]
    special = set(SPECIALS)
    vocab = [*SPECIALS, *(token for token in frequent if token not in special)][:max_vocab]
    return pad_vocab(vocab)


def pad_vocab(vocab: list[str]) -> list[str]:
    """Append one to eight `xxfake`, up to a multiple of 8."""
    return vocab + [FAKE] * (8 - len(vocab) % 8)
