"""Highlighted texts: all of a short text is shown, and the strongest pieces of a long one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ulmfit_fast.interpret.examination import Attribution, TokenScore
from ulmfit_fast.report.attribution import MAX_PIECES, N_LEVELS, highlights
from ulmfit_fast.report.text import excerpt, visible

TOKENS = st.lists(
    st.builds(TokenScore, st.text(max_size=12), st.floats(-3, 3, allow_nan=False)), max_size=60
)


def shown(pieces) -> str:
    return "".join(piece.space + piece.text for piece in pieces)


def words(text: str) -> list[str]:
    return [visible(word) for word in text.split()]


@given(TOKENS)
def test_pieces_of_a_short_text_give_it_again(tokens: list[TokenScore]):
    made = highlights(Attribution("a", tuple(tokens), "integrated_gradients", 0.0))
    assert shown(made.pieces).split() == words("".join(token.text for token in tokens))
    assert made.n_left_out == 0
    marked = [piece for piece in made.pieces if piece.level]
    largest = max((abs(token.score) for token in tokens), default=0.0)
    assert all(abs(piece.level) <= N_LEVELS for piece in marked)
    assert all((piece.score[0] == "+") == (piece.level > 0) for piece in marked)
    if largest > 0:
        assert max(abs(piece.level) for piece in marked) == N_LEVELS


@given(st.integers(0, 1_999), st.integers(0, 1_999))
def test_of_a_long_text_the_strongest_pieces_stay(strong: int, other: int):
    scores = [0.001] * 2_000
    scores[other], scores[strong] = -0.5, 1.0
    tokens = tuple(TokenScore(f" w{k}", score) for k, score in enumerate(scores))
    made = highlights(Attribution("a", tokens, "gradient_x_input", 0.0))
    assert f"w{strong}" in shown(made.pieces).split()
    assert len(shown(made.pieces).split()) <= MAX_PIECES + 20
    assert made.n_left_out == 2_000 - len(
        [w for w in shown(made.pieces).split() if w != "[\u2026]"]
    )
    assert made.pros[0] == (f"w{strong}", "+1.00")
    if other != strong:
        assert made.cons == [(f"w{other}", "\u22120.50")]


@given(st.text(max_size=2_000), st.integers(2, 300))
def test_excerpts_are_short_single_lines_without_controls(text: str, n: int):
    line = excerpt(text, n)
    assert len(line) <= n
    assert line == " ".join(line.split())
    line.encode()
    assert not any(ord(c) < 32 or 0x202A <= ord(c) <= 0x202E for c in line)
    if len(words(text)) and len(" ".join(words(text))) <= n and len(text) <= 4 * n:
        assert line == " ".join(words(text))
