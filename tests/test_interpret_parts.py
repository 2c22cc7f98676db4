"""What a part of the data holds, and duplicates between parts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ulmfit_fast.interpret.parts import Part, excerpt, find_duplicates, length_edges, part_overview
from ulmfit_fast.text.tokenizer import train_tokenizer

TRAIN = Part(["A good film", "a  BAD\nfilm", "odd"], ["pos", "neg", "neg"])
TEST = Part(["a bad film", "a GOOD film", "new", "A good  film "], ["neg", "neg", "pos", "pos"])
UNLABELLED = Part(["NEW", "other"])


def test_duplicates_are_found_white_space_and_case_aside() -> None:
    parts = {"unlabelled": UNLABELLED, "test": TEST, "train": TRAIN}
    found, counts = find_duplicates(parts, n_shown=10, n_characters=6)
    assert counts == {"train, test": 3, "train, unlabelled": 0, "test, unlabelled": 1}
    assert [(d.part, d.row, d.other_part, d.other_row, d.labels) for d in found] == [
        ("train", 0, "test", 1, ("pos", "neg")),  # they contradict each other
        ("train", 1, "test", 0, ("neg", "neg")),
        ("train", 0, "test", 3, ("pos", "pos")),
        ("test", 2, "unlabelled", 0, ("pos", "")),
    ]
    assert found[0].text == "A goo…"
    assert find_duplicates(parts, n_shown=1, n_characters=6) == (found[:1], counts)


def test_excerpt_is_a_bounded_beginning() -> None:
    assert excerpt("abc", 3) == "abc"
    assert excerpt("abcd", 3) == "ab…"


@pytest.mark.parametrize("lengths", [[], [1], [5] * 99 + [10_000], list(range(3000)), [7, 7]])
def test_edges_hold_every_length(lengths: list[int]) -> None:
    edges = length_edges([np.array(lengths, dtype=np.int64)])
    assert len(edges) == 21
    assert all(a < b for a, b in pairwise(edges))
    assert np.histogram(lengths, bins=np.array(edges))[0].sum() == len(lengths)


def test_overview_counts_classes_lengths_and_unknown_words() -> None:
    tokenizer = train_tokenizer(["a good bad film"] * 5, max_vocab=40)
    lengths = np.array([4, 6, 2])
    edges = length_edges([lengths])
    seen = part_overview("train", TRAIN, lengths, edges, tokenizer, most_tokens=4)
    assert (seen.name, seen.n, seen.classes) == ("train", 3, {"neg": 2, "pos": 1})
    assert (seen.median_tokens, seen.longest_tokens, seen.n_cut) == (4.0, 6, 1)
    assert sum(seen.length_counts) == 3
    assert seen.unknown_words == {"\n": 1, "odd": 1}
    assert seen.unknown_share == pytest.approx(2 / 8)
    empty = part_overview("test", Part([]), np.zeros(0, np.int64), edges, tokenizer, most_tokens=4)
    assert (empty.n, empty.median_tokens, empty.longest_tokens, empty.unknown_share) == (0, 0, 0, 0)
