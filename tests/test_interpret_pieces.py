"""Pieces of a text and the words they make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulmfit_fast.interpret.examination import TokenScore
from ulmfit_fast.interpret.pieces import pieces_of, word_scores
from ulmfit_fast.text.tokenizer import train_tokenizer

TOKENIZERS = [
    train_tokenizer(["The cat isn't here. Unbelievable cats, the"] * 9, kind=kind, max_vocab=60)
    for kind in ("word", "subword")
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["word", "subword"])
def test_pieces_give_text_and_sum_again(tokenizer: object) -> None:
    @given(st.text())
    def check(text: str) -> None:
        spans = tokenizer.spans(text)
        scores = [float(2**-i) for i in range(len(spans))]
        pieces = pieces_of(text, spans, scores)
        assert "".join(piece.text for piece in pieces) == text
        if text:
            assert sum(piece.score for piece in pieces) == pytest.approx(sum(scores))

    check()


def test_marks_are_credited_to_the_word_they_mark() -> None:
    text = "So GOOD!!!!  no no no"
    tokenizer = TOKENIZERS[0]
    scores = [0, 1, 10, 2, 20, 4, 5, 40, 7, 8, 90]  # of xxbos, xxmaj so, xxup good, ...
    assert tokenizer.tokenize(text) == [
        *("xxbos", "xxmaj", "so", "xxup", "good", "xxrep", "4", "!", "xxwrep", "3", "no"),
    ]
    assert [(p.text, p.score) for p in pieces_of(text, tokenizer.spans(text), scores)] == [
        ("So", 11.0), (" GOOD", 22.0), ("!!!!", 49.0), ("  no no no", 105.0),
    ]  # fmt: skip


def test_tokens_that_share_characters_are_one_piece() -> None:
    pieces = pieces_of("a&x; b", [(0, 1), (1, 4), (1, 4), (5, 6), (6, 6)], [1, 2, 3, 4, 5])
    assert [(p.text, p.score) for p in pieces] == [("a", 1), ("&x;", 5), (" b", 9)]


def test_words_add_up_pieces_and_places() -> None:
    parts = [("Un", 1.0), ("believ", 2.0), ("able", 3.0), (" is", 0.5), ("n't", -1.0), (".", -3.0),
             (" unbelievable", 4.0), ("\n\n", 9.0), ("x", 0.0), ("'", 0.0)]  # fmt: skip
    words = word_scores([TokenScore(*part) for part in parts])
    assert [(w.word, w.n, w.score) for w in words] == [
        ("unbelievable", 2, 10.0), ("x", 1, 0.0), ("'", 1, 0.0), ("isn't", 1, -0.5), (".", 1, -3.0),
    ]  # fmt: skip
