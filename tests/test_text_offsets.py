"""Where tokens stand in the text that they were made of."""

from __future__ import annotations

import lzma
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulmfit_fast.text.offsets import trace_normal, trace_rules
from ulmfit_fast.text.rules import SPECIALS, apply_rules, fix_markup
from ulmfit_fast.text.subword import _normalise
from ulmfit_fast.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = [
    f"The film number {i} was {'very ' * (i % 4)}good, but I can't say WHY. <br />It {verb} well!"
    for i, verb in enumerate(["ends", "starts", "sounds", "looks"] * 30)
]
PARTS = [
    *("a", "A", "Word", "WORD", "wORD", "!", "!!!!", "....", "...", "#39;", "&amp;", "&lt;"),
    *("<br />", "<br /><br />", " ", "   ", "\n", "\n\n ", "\t", " no no no no ", "so so so", "İ"),
    *("ΟΔΟΣ", "ß", "can't", ":-)", "/", "\\n", "e\u0301", "ｶﾞ", "각", "👍🏽", "\ud800", "xxbos"),
    *("xxmaj", "ﬁ", "&#x41", "xxrep 3 a", "½", "\u0301", "\x1c", "\u2028", " @-@ "),
    *("nbsp;", "&NotEqualTilde;"),
]  # fmt: skip
texts = st.one_of(st.text(), st.lists(st.sampled_from(PARTS), max_size=12).map("".join))


@pytest.fixture(scope="module", params=["word", "subword"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, kind=request.param, max_vocab=200)


@given(texts)
def test_tracing_gives_what_the_rules_give(text: str) -> None:
    assert trace_rules(text).text == apply_rules(text)
    assert trace_normal(text).text == _normalise(text)


@given(texts)
def test_spans_never_fall_and_stay_in_the_text(text: str) -> None:
    for traced in (trace_rules(text), trace_normal(text)):
        assert len(traced.spans) == len(traced.text)
        assert all(0 <= start <= end <= len(text) for start, end in traced.spans)
        for before, after in pairwise(traced.spans):
            assert before[0] <= after[0]
            assert before[1] <= after[1]


@pytest.mark.parametrize("kind", ["word", "subword"])
def test_every_token_has_a_span(kind: str) -> None:
    tokenizer = train_tokenizer(TEXTS, kind=kind, max_vocab=200)

    @given(texts)
    def check(text: str) -> None:
        spans = tokenizer.spans(text)
        assert len(spans) == len(tokenizer.encode([text])[0])
        assert spans[0] == (0, 0)
        shown = set("".join(text[start:end] for start, end in spans))
        assert {c for c in text if c.isalnum()} <= shown or fix_markup(text) != text

    check()


def spelled(tokenizer: Tokenizer, text: str) -> list[tuple[str, str]]:
    pairs = zip(tokenizer.tokenize(text), tokenizer.spans(text), strict=True)
    return [(token, text[start:end]) for token, (start, end) in pairs]


def test_marks_stand_before_the_word_they_mark(tokenizer: Tokenizer) -> None:
    found = spelled(tokenizer, "WHY   so good!!!! The very very very film")
    marks = [text for token, text in found if token in SPECIALS and token != "xxunk"]
    assert len(marks) >= 5
    assert set(marks) == {""}
    texts = [text for _, text in found]
    assert "!!!!" in texts
    assert "very very very" in texts or "very very very " in texts


def test_words_of_a_text_are_found_where_they_are() -> None:
    tokenizer = train_tokenizer(TEXTS, max_vocab=200)
    text = "It can't &amp; Won't, İstanbul <br /><br />GOOD..."
    assert [shown for _, shown in spelled(tokenizer, text)] == [
        *("", "", "It", "ca", "n't", "&", "amp;", "", "Wo", "n't", ",", "İstanbul"),
        *("<br /><br />", "", "GOOD", "..."),
    ]  # fmt: skip


def test_spans_of_real_reviews_spell_their_tokens(shared_data: Path) -> None:
    with lzma.open(shared_data / "imdb_train.csv.xz", "rt", encoding="utf-8") as file:
        lines = [next(file) for _ in range(300)]
    tokenizer = train_tokenizer(lines, max_vocab=5000)
    n_same = n_words = 0
    for line in lines:
        assert trace_rules(line).text == apply_rules(line)
        for token, shown in spelled(tokenizer, line):
            n_words += token.isalpha() and token not in SPECIALS
            n_same += token.isalpha() and token == shown.lower()
    assert n_same > 0.999 * n_words


def test_unknown_words_are_counted(tokenizer: Tokenizer) -> None:
    n, unknown = tokenizer.count_unknown(["The film жук жук was GOOD", "good"])
    assert n == 7
    assert unknown == {"жук": 2}
