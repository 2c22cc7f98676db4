"""Cutting into words against spaCy, which fastai uses: exceptions, affixes, whole lines."""

from __future__ import annotations

import re
import time
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_lines import real_lines

from ulmfit_fast.text.contractions import exceptions
from ulmfit_fast.text.rules import apply_rules
from ulmfit_fast.text.segment import LONGEST_CHUNK, chunks_of, cut_chunk

# Tokens of the 2,000 real lines that may differ: spaCy also looks for emoticons across spaces.
# Measured 2026-11-23: 0.
DIFFERENT_ALLOWED = 5
PIECES = (
    *(
        "can't",
        "i'm",
        "we'll've",
        "don’t",
        "it's",
        "cannot",
        "gonna",
        "n't",
        "'s",
        "o'clock",
        "a.m.",
    ),
    *(
        "10am",
        "u.s.",
        "e.g.",
        ":)",
        ":-(",
        "<3",
        "(:",
        "=",
        "--",
        "-",
        "–",
        "…",
        "..",
        ".",
        ",",
        ":",
    ),
    *(
        "www.example.com",
        "http://a.bc",
        "user@mail.org",
        "1.2.3.4",
        "$5",
        "5$",
        "10km",
        "50%",
        "+1",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "'",
        '"',
        "“",
        "”",
        "!",
        "?",
        "a",
        "bb",
        "中",
        "文",
        "й",
        "é",
        "°c.",
        "1",
        "9",
    ),
    *(
        "/",
        "#",
        "_",
        "*",
        "&",
        "😀",
        "©",
        "\n",
        " ",
        "  ",
        "\t",
        "xxmaj",
        "xxunk",
        "a-b",
        "a.b",
        "©a",
    ),
)
lower_texts = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


def tokens_of(text: str) -> list[str]:
    return [token for chunk in chunks_of(text) for token in cut_chunk(chunk)]


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(["a", "b.", " ", "  ", "\n", "\t", "\xa0", " \n"]), max_size=9))
def test_chunks_are_words_and_white_space_other_than_one_space(pieces: list[str]) -> None:
    text = f"xxbos {''.join(pieces).strip()}".strip()
    assert chunks_of(text) == re.findall(r"\S+|(?! )\s+|(?<= )\s+", text)


@pytest.fixture(scope="module")
def spacy_tokens():
    """fastai's SpacyTokenizer with its rule for spaces, for text that went through the rules."""
    core = pytest.importorskip("fastai.text.core", reason="peer: requirements/peers.txt")
    tokenizer = core.SpacyTokenizer()
    return lambda texts: [[core.replace_space(t) for t in doc] for doc in tokenizer(texts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("xxbos i can't :-) (well, e.g. u.s.)", "xxbos i ca n't :-) ( well , e.g. u.s . )"),
        ("a.m. 10pm 5km $5 50%.", "a.m. 10 pm 5 km $ 5 50 % ."),
        ("see www.a.com, or me@b.org!", "see www.a.com , or me@b.org !"),
        ("well-known a/b no--yes x,y 1-2", "well - known a / b no -- yes x , y 1 - 2"),
        ("one\n\ntwo \n three", "one \n\n two \n▁ three"),
    ],
)
def test_text_is_cut_like_spacy(text: str, expected: str) -> None:
    assert tokens_of(text) == expected.split(" ")


@pytest.mark.peer
def test_exceptions_are_spacys_lower_case_ones() -> None:
    english = pytest.importorskip("spacy.lang.en", reason="peer: requirements/peers.txt").English()
    orth = __import__("spacy.symbols", fromlist=["ORTH"]).ORTH
    theirs = {
        word: tuple(token.get(orth) or token["ORTH"] for token in tokens)
        for word, tokens in english.tokenizer.rules.items()
        if word == word.lower() and not word.isspace()
    }
    assert exceptions() == theirs


@pytest.mark.peer
def test_real_lines_are_cut_like_spacy(spacy_tokens, shared_data: Path) -> None:
    lines = [apply_rules(line) for line in real_lines(shared_data)]
    n_tokens = n_different = 0
    for line, theirs in zip(lines, spacy_tokens(lines), strict=True):
        ours = tokens_of(line)
        n_tokens += len(theirs)
        if ours != theirs:
            blocks = SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks()
            n_different += max(len(theirs), len(ours)) - sum(block.size for block in blocks)
    assert n_tokens > 150_000
    assert n_different <= DIFFERENT_ALLOWED, f"{n_different} of {n_tokens} tokens differ"


@pytest.mark.peer
@settings(derandomize=True, max_examples=1_500, deadline=None)
@given(lower_texts)
def test_strings_made_to_break_it_are_cut_like_spacy(spacy_tokens, text: str) -> None:
    """One chunk at a time: only there the look across spaces cannot matter."""
    for chunk in text.split():
        ruled = apply_rules(chunk).replace("\n", " ")
        for part in ruled.split():
            assert [tokens_of(part)] == spacy_tokens([part])


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.text(max_size=50))
def test_no_character_is_lost(text: str) -> None:
    ruled = apply_rules(text)
    joined = "".join(tokens_of(ruled)).replace("▁", "")
    assert joined == ruled.replace(" ", "").replace("▁", "")


def test_a_chunk_of_megabytes_is_cut_in_linear_time() -> None:
    start = time.perf_counter()
    tokens = tokens_of("xxbos " + "!?" * 100_000 + "a.b" * 300_000)
    assert time.perf_counter() - start < 20
    assert max(map(len, tokens)) <= LONGEST_CHUNK
