"""The text rules against fastai's own, on real lines and on strings made to break them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_lines import real_lines

from ulmfit_fast.text import rules

# What the rules look for, to be put together in every order.
PIECES = (
    *("<br />", "#39;", "&amp;", "amp;", "&lt;", "nbsp;", "quot;", "\\n", '\\"', "<unk>", " @.@ "),
    *(" @-@ ", "...", "…", "/", "#", "\\", "aaa", "AAA", "!!!!", "A", "I", "Word", "WORD", "wORD"),
    *(
        "no",
        "No",
        " no no no ",
        "U.S.",
        "É",
        "ÉA",
        "İ",
        "ß",
        "K",
        "Aé",
        "A1",
        "xxmaj",
        "xxup",
        "中",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\t",
        "\xa0",
        "\u2028",
        "\x1c",
        "1",
        "_",
        "-",
        "'s",
        "n't",
        "",
        "🎉",
        "\u0301",
    ),
)
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join),
    st.lists(st.sampled_from(["a", "b", "A", " ", "\n", "."]), max_size=30).map("".join),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "xxbos "),
        (
            "HELLO World soooo good good good good",
            "xxbos xxup hello xxmaj world s xxrep 4 o xxwrep 4 good",
        ),
        ("A Bb CC dD", "xxbos a xxmaj bb xxup cc dd"),
        ("I &lt;3 it<br /><br />and/or", "xxbos i <3 it\n\nand / or"),
        ("1 @,@ 020 @.@ 5 well @-@ known <unk>", "xxbos 1 @,@ 020.5 well-known xxunk"),
        ("wait... #36;10", "xxbos wait … $10"),
        ("no no no!", "xxbos xxwrep 3 no !"),
    ],
)
def test_rules_give_what_fastai_documents(text: str, expected: str) -> None:
    assert rules.apply_rules(text) == expected


@pytest.fixture(scope="module")
def fastai_rules():
    """All of fastai's rules as one function."""
    text_all = pytest.importorskip("fastai.text.all", reason="peer: requirements/peers.txt")
    return text_all.compose(*text_all.defaults.text_proc_rules)


@pytest.mark.peer
def test_rules_equal_fastai_on_real_lines(fastai_rules, shared_data: Path) -> None:
    lines = real_lines(shared_data)
    assert len(lines) == 2_000
    assert sum("<br />" in line for line in lines) > 200
    different = [line for line in lines if rules.apply_rules(line) != fastai_rules(line)]
    assert different == []


@pytest.mark.peer
@settings(derandomize=True, max_examples=2_000, deadline=None)
@given(texts)
def test_rules_equal_fastai_on_strings_made_to_break_them(fastai_rules, text: str) -> None:
    assert rules.apply_rules(text) == fastai_rules(text)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(texts)
def test_rules_leave_no_capital_and_one_space_between_words(text: str) -> None:
    ruled = rules.apply_rules(text)
    assert ruled.startswith("xxbos ")
    assert ruled == ruled.lower()
    assert "  " not in ruled.removeprefix("xxbos ")


def test_fields_are_marked_as_fastai_does() -> None:
    assert rules.mark_fields(["one"]) == "one"
    assert rules.mark_fields(["a", "b"]) == "xxfld 1 a xxfld 2 b"


@pytest.mark.parametrize(
    "unit", ["A", "AB", "ab ", "a a ", "Ab ", "&amp;", "!?", "\n ", "A-", "/", "x\t"]
)
def test_rules_take_linear_time(unit: str) -> None:
    """A tenfold text takes at most thirtyfold time; quadratic rules would take a hundredfold."""
    seconds = []
    for n in (20_000, 200_000):
        text = unit * (n // len(unit)) + "c"
        start = time.perf_counter()
        rules.apply_rules(text)
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 30 * seconds[0] + 0.5, seconds
