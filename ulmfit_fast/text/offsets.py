r"""The rules once more, with the place in the original text of every character they leave.

Encoding needs no places, and would be several times slower with them. These are for people: to show
which words of a text a model heeds. `trace_rules(text).text` is `apply_rules(text)` for every text;
the tests hold it to that.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from .rules import (
    BOS,
    CAPITALS,
    MAJ,
    MARKUP,
    REP,
    REPEATED_CHARACTER,
    REPEATED_WORD,
    SPACED,
    SPACES,
    UP,
    WREP,
    fold_words,
)

#: (start, end) in the original text; start == end of what the rules put in.
Span = tuple[int, int]
#: Characters, and the (start, end) in the text before that they stand for.
Part = tuple[str, int, int]

# What html.unescape takes for a character reference.
_REFERENCE = re.compile(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")
_MARKUP = [(re.compile(re.escape(old)), new) for old, new in MARKUP]
_WHITE = re.compile(r"\s+")
_SURROGATE = re.compile("[\ud800-\udfff]")
# What Unicode calls NFKC never joins a character of ASCII to the one before it.
_ASCII_RUN = re.compile("[\x00-\x7f]?[^\x00-\x7f]+")


class TracedText:
    """A text on its way through the rules.

    Attributes:
        text: as it is now.
        spans: of each of its characters; starts and ends never fall.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans: list[Span] = [(i, i + 1) for i in range(len(text))]

    def rewrite(self, found: Iterator[re.Match[str]], parts_of: Callable[..., list[Part]]) -> None:
        """Put parts in the place of each match, as re.sub does."""
        parts: list[Part] = []
        at = 0
        for match in found:
            parts.append((self.text[at : match.start()], at, match.start()))
            parts += parts_of(match)
            at = match.end()
        self.put([*parts, (self.text[at:], at, len(self.text))])

    def put(self, parts: Sequence[Part]) -> None:
        """Put parts in the place of the whole text.

        A part as long as what it stands for is taken character by character; of any other part
        every character stands for all of that.
        """
        spans: list[Span] = []
        for characters, start, end in parts:
            same = len(characters) == end - start
            spans += self.spans[start:end] if same else [self.source(start, end)] * len(characters)
        self.text = "".join(characters for characters, _, _ in parts)
        self.spans = spans

    def source(self, start: int, end: int) -> Span:
        """Return where in the original the characters [start, end) stand."""
        if start < end:
            return self.spans[start][0], self.spans[end - 1][1]
        place = self.spans[start][0] if start < len(self.spans) else self._last()
        return place, place

    def cut(self, start: int, end: int) -> None:
        """Keep the characters [start, end)."""
        self.text, self.spans = self.text[start:end], self.spans[start:end]

    def _last(self) -> int:
        return self.spans[-1][1] if self.spans else 0


def trace_rules(text: str) -> TracedText:
    """Run `apply_rules` over a text, step by step.

    What a rule puts in (`xxmaj`, `xxup`, `xxrep 4`, `xxwrep 3`) stands, with no width, where the
    word it marks begins; what a rule folds (`!!!!`) is the whole of what it stands for.
    """
    traced = TracedText(text)
    for pattern, new in _MARKUP:
        traced.rewrite(pattern.finditer(traced.text), lambda m, new=new: [(new, *m.span())])
    references = _REFERENCE.finditer(traced.text)
    traced.rewrite(references, lambda m: [(html.unescape(m[0]), *m.span())])
    traced.rewrite(REPEATED_CHARACTER.finditer(traced.text), _fold_character)
    if fold_words(traced.text) != traced.text:
        traced.rewrite(REPEATED_WORD.finditer(traced.text), _fold_word)
    traced.rewrite(SPACED.finditer(traced.text), _space_mark)
    traced.rewrite(SPACES.finditer(traced.text), lambda m: [(" ", *m.span())])
    traced.rewrite(CAPITALS.finditer(traced.text), _lower_word)
    traced.put(_lowered(traced.text, 0))
    start = len(traced.text) - len(traced.text.lstrip())
    traced.cut(start, start + len(traced.text.strip()))
    traced.text = f"{BOS} {traced.text}"
    traced.spans = [(0, 0)] * (len(BOS) + 1) + traced.spans
    return traced


def _fold_character(match: re.Match[str]) -> list[Part]:
    start, end = match.span()
    mark = f" {REP} {len(match[2]) + 1} "
    return [(mark, start, start), (match[1], start, end), (" ", end, end)]


def _fold_word(match: re.Match[str]) -> list[Part]:
    start, end = match.start(1), match.start(3)
    mark = f"{WREP} {len(match[2].split()) + 2} "
    return [
        (" ", match.start(), start),
        (mark, start, start),
        (match[1], start, end),
        (" ", end, end),
        (match[3], *match.span(3)),
    ]


def _space_mark(match: re.Match[str]) -> list[Part]:
    start, end = match.span()
    return [(" ", start, start), (match[1], start, end), (" ", end, end)]


def _lower_word(match: re.Match[str]) -> list[Part]:
    start, word = match.start(), match[0]
    lowered = _lowered(word, start)
    if len(word) == 1:
        return lowered
    return [(f"{MAJ if match[1] is None else UP} ", start, start), *lowered]


def _lowered(text: str, start: int) -> list[Part]:
    """Return a text in lower case: some characters become two, as İ does."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return [(lowered, start, start + len(text))]
    parts, at = [], 0
    for i, character in enumerate(text, start):
        n = len(character.lower())
        parts.append((lowered[at : at + n], i, i + 1))
        at += n
    return parts


def trace_normal(text: str) -> TracedText:
    """Run over a text what subwords are cut from: the rules, NFKC, and single spaces."""
    traced = trace_rules(text)
    traced.rewrite(_SURROGATE.finditer(traced.text), lambda m: [("?", *m.span())])
    traced.rewrite(_ASCII_RUN.finditer(traced.text), _composed)
    traced.rewrite(_WHITE.finditer(traced.text), lambda m: [(" ", *m.span())])
    start = len(traced.text) - len(traced.text.lstrip())
    traced.cut(start, start + len(traced.text.strip()))
    return traced


def _composed(match: re.Match[str]) -> list[Part]:
    """Return a run in NFKC, cut where its parts compose as the whole does."""
    run, start = match[0], match.start()
    whole = unicodedata.normalize("NFKC", run)
    bounds = [0, *(i for i in range(1, len(run)) if not unicodedata.combining(run[i])), len(run)]
    pieces = [(run[a:b], start + a, start + b) for a, b in pairwise(bounds)]
    parts = [(unicodedata.normalize("NFKC", piece), a, b) for piece, a, b in pieces]
    if "".join(piece for piece, _, _ in parts) == whole:
        return parts
    return [(whole, *match.span())]


def spans_of(traced: TracedText, places: Sequence[Span]) -> list[Span]:
    """Return the span of each token from its place in a traced text, white space before it aside.

    A token of nothing but white space has the span of all of it.
    """
    spans = []
    for start, end in places:
        token = traced.text[start:end]
        if token.strip():
            start += len(token) - len(token.lstrip())
        spans.append(traced.source(start, end))
    return spans
