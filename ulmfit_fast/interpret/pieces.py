"""Scores of tokens as scores of pieces of the text, and of its words; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ulmfit_fast.interpret.examination import TokenScore

_APOSTROPHES = "'’"


@dataclass(frozen=True)
class WordScore:
    """A word of a text, wherever it stands.

    Attributes:
        word: in lower case.
        n: how often it stands in the text.
        score: of all of them together.
    """

    word: str
    n: int
    score: float


def pieces_of(
    text: str, spans: Sequence[tuple[int, int]], scores: Iterable[float]
) -> tuple[TokenScore, ...]:
    """Cut a text into scored pieces that give it again.

    Args:
        text: what the tokens were made of.
        spans: of `Tokenizer.spans`.
        scores: of each token.

    Returns:
        pieces: white space goes with what follows it, at the end with the last. A token without
            width counts with the next one that has any; tokens that share characters are one piece.
    """
    ends: list[int] = []
    sums: list[float] = []
    waiting = 0.0
    for (start, end), score in zip(spans, scores, strict=True):
        waiting += float(score)
        if start == end:
            continue
        if ends and start < ends[-1]:
            ends[-1] = max(ends[-1], end)
            sums[-1] += waiting
        else:
            ends.append(end)
            sums.append(waiting)
        waiting = 0.0
    if not ends:
        return (TokenScore(text, waiting),) if text else ()
    sums[-1] += waiting
    ends[-1] = len(text)
    starts = [0, *ends[:-1]]
    return tuple(
        TokenScore(text[start:end], score)
        for start, end, score in zip(starts, ends, sums, strict=True)
    )


def word_scores(pieces: Iterable[TokenScore]) -> list[WordScore]:
    """Add up the pieces of each word, and the places where it stands.

    Pieces of subwords, and what follows an apostrophe, belong to one word; punctuation is a word of
    its own. White space is left out.

    Returns:
        words: what speaks most for the class first, what speaks most against it last.
    """
    places: list[tuple[str, float]] = []
    for piece in pieces:
        word = piece.text.strip()
        goes_on = bool(places) and piece.text[:1] == word[:1] and _join(places[-1][0], word)
        if goes_on:
            places[-1] = places[-1][0] + word, places[-1][1] + piece.score
        else:
            places.append((word, piece.score))
    found: dict[str, tuple[int, float]] = {}
    for word, score in places:
        n, total = found.get(word.lower(), (0, 0.0))
        found[word.lower()] = n + 1, total + score
    words = [WordScore(word, n, total) for word, (n, total) in found.items() if word]
    return sorted(words, key=lambda word: -word.score)


def _join(before: str, after: str) -> bool:
    """Tell whether two neighbours without white space between them are one word."""
    if not before or not after or not before[-1].isalnum():
        return False
    return after[0].isalnum() or (after[0] in _APOSTROPHES and after[1:2].isalnum())
