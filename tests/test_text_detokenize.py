"""Detokenized text: cut again it gives the same tokens, and it reads as English is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_lines import real_lines

from ulmfit_fast.text import train_tokenizer
from ulmfit_fast.text.detokenize import WordDetokenizer, detokenize, detokenizer_of
from ulmfit_fast.text.rules import BOS, MAJ, REP, SPECIALS, UP, WREP, apply_rules
from ulmfit_fast.text.spelling import words_of
from ulmfit_fast.text.tokenizer import Tokenizer, WordTokenizer

# --- texts as people write them

WORDS = ("the", "film", "was", "zoë", "naïve", "so", "story", "time", "a", "i", "of", "café")
plain = st.sampled_from(WORDS)
words = st.one_of(
    plain,
    plain.map(str.capitalize),
    plain.map(str.upper),
    st.sampled_from(("don't", "I'm", "it's", "They'd", "John's", "can't", "won’t", "gonna", "Im")),
    st.sampled_from(("3.5", "1999", "$10", "50%", "#1", "10:30", "and/or", "well-known", "U.S.")),
    st.sampled_from((":-)", "—", "--", "-", "&", "e.g.", "a.m.", "Mr.", "http://a.org/b?c=1")),
    st.sampled_from(("soooo", "!!!!", "Aaaah", "xyz-----", "中文", "🎉")),
)
repeated = st.sampled_from(("no no no", "No No No No", "SO SO SO"))
wrapped = st.tuples(
    st.one_of(st.tuples(st.sampled_from(("", "", '"', "(", "“")), words).map("".join), repeated),
    st.sampled_from(("", "", ",", ".", "!", "?", '"', ")", ".”", "...", ":", ";")),
).map("".join)
spaces = st.sampled_from((" ", " ", " ", " ", "\n", "\n\n"))


@st.composite
def texts(draw: st.DrawFn) -> str:
    parts = draw(st.lists(wrapped, min_size=1, max_size=12))
    between = [draw(spaces) for _ in parts]
    return "".join(part + space for part, space in zip(parts, between, strict=True))


def written(tokens: list[str]) -> str:
    detokenizer = WordDetokenizer()
    return "".join([*(detokenizer.push(token) for token in tokens), detokenizer.finish()])


@pytest.mark.parametrize(
    "text",
    [
        "The film isn't BAD, it is great!!!! No no no!",
        "I'm a fan (or not) of well-known USA films; they cost $10, and/or 50%.",
        'He said: "good, it was." A man, I think, of the dogs\' owner.',
        "First line.\nA second one.\n\nThe third: “zoë’s café”.",
        "A NAÏVE man can't, won't and SHOULDN'T…",
        "No No No, said Mr. Smith at 10:30 a.m. :-)",
        "gonna dont cannot it's",
    ],
)
def test_text_comes_back_as_it_was(text: str) -> None:
    assert written(list(words_of(text))) == text


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("xxbos xxmaj the film is n't xxup bad , it is xxrep 3 !", "The film isn't BAD, it is!!!"),
        ("he was ' quoted ' , the dogs ' end", "he was 'quoted', the dogs' end"),
        ("a man . a dog", "A man. A dog"),
        ("1 / 2 of # 1", "1/2 of #1"),
        ("a list \n - one \n - two", "A list\n- one\n- two"),
        ("good xxmaj", "good"),  # nothing to mark
        ("xxmaj 10 xxup ! xxmaj xxmaj word", "10 ! Word"),
        ("xxrep many x xxwrep 1000000000000 y", "x y"),
        ("xxwrep 3 xxmaj no !", "No No No!"),
        ("xxrep 3 xxup a", "A"),  # a character has no mark of its own
        ("xxfld 1 xxmaj title xxfld 2 text", "xxfld 1 Title xxfld 2 text"),
        ("", ""),
        ("xxbos", ""),
    ],
)
def test_marks_are_undone_or_dropped(tokens: str, text: str) -> None:
    assert written(tokens.split(" ") if tokens else []) == text


@settings(max_examples=400)
@given(texts())
def test_detokenized_text_is_cut_into_the_same_tokens(text: str) -> None:
    tokens = words_of(text)
    assert words_of(written([BOS, *tokens])) == tokens


def test_real_lines_are_cut_into_the_same_tokens(shared_data: Path) -> None:
    lines = real_lines(shared_data)
    other = [line for line in lines if words_of(written(list(words_of(line)))) != words_of(line)]
    assert len(other) <= 4  # of 2,000: "nose--I'd", "longer)than"


LOOSE = (
    *SPECIALS[5:],
    "3",
    "12",
    "good",
    "i",
    "a",
    ",",
    '"',
    "'",
    "(",
    "-",
    "'s",
    "\n",
    "▁",
    "n't",
)


@given(st.lists(st.sampled_from(LOOSE), max_size=30))
def test_any_tokens_are_written_without_marks(tokens: list[str]) -> None:
    text = written(tokens)
    assert not set(text.lower().replace("-", " ").split()) & {MAJ, UP, REP, WREP}
    if not {REP, WREP} & set(tokens):
        letters = "".join(token for token in tokens if token not in SPECIALS).replace("▁", " ")
        assert "".join(text.lower().split()) == "".join(letters.split())


@given(st.lists(st.sampled_from([",", "-", "'", "!?", "("]), min_size=200, max_size=200))
def test_endless_punctuation_is_not_held_back(tokens: list[str]) -> None:
    detokenizer = WordDetokenizer()
    for start in range(0, 200, 20):
        assert "".join(map(detokenizer.push, tokens[start : start + 20]))


# --- behind a prompt


@pytest.mark.parametrize(
    ("prompt", "tokens", "rest"),
    [
        ("The film", [",", "xxmaj", "bob", "said"], ", Bob said"),
        ("The film", ["was"], " was"),
        ("well", ["-", "known", "films"], "-known films"),
        ('He said "good', ["film", '"', "."], ' film".'),
        ("I", ["'m", "here"], "'m here"),
        ("It was (", ["not", ")"], "not)"),
        ("no", [], ""),
        ("", ["xxmaj", "it"], "It"),
    ],
)
def test_what_follows_a_prompt_fits_to_it(prompt: str, tokens: list[str], rest: str) -> None:
    detokenizer = WordDetokenizer()
    detokenizer.begin(["xxbos", *words_of(prompt)])
    pieces = [detokenizer.push(token) for token in tokens]
    assert "".join([*pieces, detokenizer.finish()]) == rest


# --- tokenizers


@pytest.fixture(scope="module", params=["word", "subword"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    numbers = " ".join(map(str, range(3, 31)))  # counts of repetitions
    lines = [
        f"The {noun} in the house wasn't {verb}, it was GREAT!!! (so said {noun}s) and/or {numbers}"
        for noun in ("dog", "cat", "horse", "cow", "bird", "mouse")
        for verb in ("good", "old", "near", "away", "loud", "happy")
    ]
    return train_tokenizer(lines, kind=request.param, min_freq=1, max_vocab=120)


@given(st.data())
def test_ids_come_back_from_their_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    parts = ("The", "dog", "wasn't", "GREAT!!!", "no no no", "(so", "loud)", "and/or", "12", "Hog")
    text = " ".join(data.draw(st.lists(st.sampled_from(parts), min_size=1, max_size=10)))
    ids = tokenizer.encode([text])[0]
    again = tokenizer.encode([detokenize(tokenizer, ids)])[0]
    assert again.tolist() == ids.tolist()


def test_unknown_words_are_shown_as_unknown() -> None:
    tokenizer = WordTokenizer(["xxunk", "xxpad", "xxbos", "a", "xxmaj", "dog", ",", "x"])
    ids = tokenizer.encode(["A Zyx, a dog"])[0]
    assert detokenize(tokenizer, ids) == "A Xxunk, a dog"


def test_subwords_are_undone_one_by_one(shared_data: Path) -> None:
    lines = [line for line in real_lines(shared_data)[::4] if "<unk>" not in line]
    tokenizer = train_tokenizer(lines, kind="subword", max_vocab=2000, min_freq=2)
    for line in lines[:100]:
        ids = tokenizer.encode([line])[0]
        text = detokenize(tokenizer, ids)
        assert not set(text.split()) & {MAJ, UP, REP, WREP}
        assert tokenizer.encode([text])[0].tolist() == ids.tolist()
    detokenizer = detokenizer_of(tokenizer)
    detokenizer.begin(["xxbos", "▁film"])
    assert detokenizer.push("s") + detokenizer.push("▁are") + detokenizer.finish() == "s are"


def test_rules_leave_a_detokenized_text_alone() -> None:
    text = "xxbos xxmaj it is xxrep 4 ! xxwrep 3 no , and xxup tv"
    assert apply_rules(written(text.split())).split() == text.split()
