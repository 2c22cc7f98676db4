"""A text with its pieces marked by how much they speak for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ulmfit_fast.interpret.examination import Attribution, TokenScore
from ulmfit_fast.report.text import visible

N_LEVELS = 5
# Pieces shown of a long text: those about its strongest.
MAX_PIECES = 150
AROUND = 12
N_STRONGEST = 5
MAX_PIECE = 60  # characters


@dataclass(frozen=True)
class Piece:
    """A piece of a text as it is shown.

    Attributes:
        space: the white space before it.
        text: itself.
        level: -N_LEVELS, strongly against the answer, to N_LEVELS, strongly for it; 0 unmarked.
        score: signed, for people.
    """

    space: str
    text: str
    level: int = 0
    score: str = ""


@dataclass(frozen=True)
class Highlights:
    """A text as it is shown.

    Attributes:
        pieces: in order; neighbours without a mark are one piece.
        n_left_out: pieces of the text that are not shown.
        pros: the strongest for the answer, with their scores.
        cons: the strongest against it.
        gap: share of the logit's difference that the scores miss.
        method: in words.
    """

    pieces: list[Piece]
    n_left_out: int
    pros: list[tuple[str, str]]
    cons: list[tuple[str, str]]
    gap: float
    method: str


def highlights(attribution: Attribution) -> Highlights:
    """Mark the pieces of a text by strength, relative to its strongest."""
    tokens = attribution.tokens
    largest = max((abs(token.score) for token in tokens), default=0.0)
    shown = _shown(tokens)
    pieces: list[Piece] = []
    last = -1
    for index in shown:
        piece = _piece(tokens[index], largest)
        if index != last + 1:
            pieces.append(Piece(" ", "[\u2026]"))
            piece = replace(piece, space=" ")
        last = index
        if pieces and not piece.level and not pieces[-1].level:
            before = pieces.pop()
            piece = Piece(before.space, before.text + piece.space + piece.text)
        pieces.append(piece)
    if shown and last != len(tokens) - 1:
        pieces.append(Piece(" ", "[\u2026]"))
    by_score = sorted(tokens, key=lambda token: -token.score)
    method = attribution.method.replace("_", " ").replace(" x ", " \u00d7 ")
    return Highlights(
        pieces, len(tokens) - len(shown), _strongest(by_score, 1), _strongest(by_score[::-1], -1),
        attribution.gap, method,
    )  # fmt: skip


def signed(score: float) -> str:
    """Write a score with its sign; a minus as long as the plus."""
    return f"{score:+.2f}".replace("-", "\u2212")


def _shown(tokens: Sequence[TokenScore]) -> list[int]:
    """Return the pieces to show: all, or those around the strongest until MAX_PIECES."""
    n = len(tokens)
    if n <= MAX_PIECES:
        return list(range(n))
    chosen: set[int] = set(range(AROUND))
    for index in sorted(range(n), key=lambda k: -abs(tokens[k].score)):
        more = range(max(0, index - AROUND), min(n, index + AROUND + 1))
        if len(chosen | set(more)) > MAX_PIECES:
            break
        chosen |= set(more)
    return sorted(chosen)


def _piece(token: TokenScore, largest: float) -> Piece:
    text = visible(" ".join(token.text.split()))
    space = " " if token.text[:1].isspace() else ""
    if len(text) > MAX_PIECE:
        text = text[: MAX_PIECE - 1] + "\u2026"
    if text and token.text[-1:].isspace():
        text += " "
    level = round(N_LEVELS * token.score / largest) if largest else 0
    return Piece(space, text, level, signed(token.score) if level else "")


def _strongest(tokens: Sequence[TokenScore], sign: int) -> list[tuple[str, str]]:
    """Return the first pieces of a sign with their scores."""
    found = [token for token in tokens if sign * token.score > 0.005 and token.text.strip()]
    return [
        (visible(token.text.strip())[:MAX_PIECE], signed(token.score))
        for token in found[:N_STRONGEST]
    ]
