"""The vocabulary: which tokens get an id."""

from __future__ import annotations

from collections import Counter

from .rules import SPECIALS

FAKE = "xxfake"
"""Fills the vocabulary up to a multiple of 8; no text ever gets its id."""


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
