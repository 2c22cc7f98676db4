"""The vocabulary against fastai's make_vocab."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_lines import real_lines

from ulmfit_fast.text.rules import SPECIALS
from ulmfit_fast.text.tokenizer import train_tokenizer
from ulmfit_fast.text.vocab import count_words, make_vocab

counters = st.lists(
    st.sampled_from([*"abcdefghijklmnopqrstuvwxyz", "xxunk", "xxmaj", "xxfld"]), max_size=80
).map(Counter)


def test_specials_come_first_then_the_most_frequent_in_order_of_first_sight() -> None:
    vocab = make_vocab(Counter(["b", "a", "a", "c", "b", "rare", "xxmaj"]), min_freq=2)
    assert vocab == [*SPECIALS, "b", "a", *["xxfake"] * 5]


def test_a_full_multiple_of_eight_gets_eight_more() -> None:
    counts = Counter({f"w{i}": 3 for i in range(100)})
    assert len(make_vocab(counts, max_vocab=64)) == 72


@pytest.mark.peer
@settings(derandomize=True, max_examples=400, deadline=None)
@given(counters, st.integers(9, 40), st.integers(1, 4))
def test_vocabulary_equals_fastai(counts: Counter[str], max_vocab: int, min_freq: int) -> None:
    theirs = pytest.importorskip("fastai.text.data", reason="peer: requirements/peers.txt")
    assert make_vocab(counts, max_vocab=max_vocab, min_freq=min_freq) == theirs.make_vocab(
        counts, min_freq=min_freq, max_vocab=max_vocab
    )


@pytest.mark.peer
def test_whole_pipeline_equals_fastai_without_spacy(shared_data: Path) -> None:
    """Rules, tokens, counts and vocabulary of real lines, with fastai's split at spaces."""
    text_all = pytest.importorskip("fastai.text.all", reason="peer: requirements/peers.txt")
    lines = real_lines(shared_data)
    theirs = list(text_all.TokenizeWithRules(text_all.BaseTokenizer())(lines))
    ours = [line.split(" ") for line in map(_ruled, lines)]
    assert ours == [list(tokens) for tokens in theirs]
    counts = Counter(token for tokens in theirs for token in tokens)
    assert make_vocab(counts) == text_all.make_vocab(counts)


@pytest.mark.peer
def test_trained_vocabulary_equals_fastai_with_spacy(shared_data: Path) -> None:
    text_all = pytest.importorskip("fastai.text.all", reason="peer: requirements/peers.txt")
    lines = real_lines(shared_data)
    tokens = list(text_all.TokenizeWithRules(text_all.SpacyTokenizer())(lines))
    counts = Counter(token for line in tokens for token in line)
    assert list(count_words(lines).items()) == list(counts.items())
    assert train_tokenizer(lines).vocab == text_all.make_vocab(counts)


def _ruled(text: str) -> str:
    from ulmfit_fast.text.rules import apply_rules

    return apply_rules(text)
