"""How the tokens of one word are put together and written: spaces, capitals, repetitions.

The rules and the cutting into words lose where spaces were. `joins` says what English would do;
whether that may be done is looked up in the tokenizer itself, by cutting the result again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .rules import MAJ, REP, UP, WREP, apply_rules
from .segment import chunks_of, cut_chunk

MOST_REPEATED = 10_000
"""Largest count of xxrep and xxwrep that is written out."""

_SPACE = "▁"  # a space inside a token of white space
_CLOSING = frozenset(",.;:!?)]}%…”’»°。，、！？；：")
_OPENING = frozenset("([{“‘«$£€¥#@¿¡")
_BETWEEN = frozenset(("-", "—", "~", "/", "\\"))
_ENDINGS = frozenset(
    ending.replace("'", mark)
    for ending in ("'s", "'m", "'re", "'ve", "'ll", "'d", "n't")
    for mark in "'’"
)
# Second halves that are no words of their own, with the first half that they belong to.
_HALVES = frozenset((("gon", "na"), ("got", "ta"), ("can", "not"), ("let", "s"), ("do", "nt")))
# Words in s before which no apostrophe stands, unless it begins a quotation.
_NO_PLURALS = frozenset(("as", "does", "has", "his", "is", "its", "this", "us", "was", "yes"))


@dataclass(frozen=True)
class Atom:
    """A part of a word that is written as one.

    Attributes:
        text: as it is written without capitals.
        tokens: what it is cut into.
    """

    text: str
    tokens: tuple[str, ...]

    @property
    def is_repetition(self) -> bool:
        """Whether it came of xxrep or xxwrep."""
        return self.tokens[0] in (REP, WREP)

    @property
    def is_words(self) -> bool:
        """Whether it is a word several times."""
        return self.tokens[0] == WREP


@dataclass
class Quotes:
    """Which quotation marks are open on the line."""

    _open: set[str] = field(default_factory=set)

    def opens(self, token: str, left: str | None) -> bool:
        """Tell whether a straight quotation mark begins a quotation, behind the token left."""
        is_of_plural = (
            token == "'" and left is not None and left.endswith("s") and left not in _NO_PLURALS
        )
        return token not in self._open and not is_of_plural

    def see(self, token: str, left: str | None) -> None:
        """Count a token."""
        if token in ('"', "'"):
            if self.opens(token, left):
                self._open.add(token)
            else:
                self._open.discard(token)
        elif "\n" in token:
            self._open.clear()


def is_space(token: str) -> bool:
    """Tell a token of white space, such as a line end."""
    return token.replace(_SPACE, " ").isspace()


def space_of(token: str) -> str:
    """Return the white space that a token stands for."""
    return token.replace(_SPACE, " ")


def joins(left: Atom, right: Atom, quotes: Quotes) -> bool:
    """Tell whether English puts no space between two neighbours.

    Args:
        left: the one before, already counted in quotes.
        right: the one behind it.
        quotes: what is open, with left and without right.
    """
    a, b = left.tokens[-1], right.tokens[-1]
    if right.is_repetition:  # "good!!!!", "sooo"
        return right.tokens[0] == REP and (b in _CLOSING or (b.isalpha() and a.isalpha()))
    if b in _CLOSING or b in _ENDINGS or (a, b) in _HALVES or b in _BETWEEN:
        return True
    if b in ('"', "'"):
        return not quotes.opens(b, a)
    if left.is_repetition:
        return False
    if a in _OPENING or a in _BETWEEN:
        return True
    if a in ('"', "'"):  # counted already: it is open if it began a quotation
        return not quotes.opens(a, None)
    return False


def belongs_to(left: Atom, right: Atom) -> bool:
    """Tell whether the rules put the space between two neighbours, which pieces show as a space."""
    if right.tokens[0] == REP:
        return right.tokens[-1] in _CLOSING
    return right.text == "/" or left.text in ("/", "#")


def is_genitive(atom: Atom) -> bool:
    """Tell 's, which stays small behind a word in capitals."""
    return atom.tokens[-1] in ("'s", "’s")


def ends_sentence(atom: Atom, has_ended: bool) -> bool:
    """Tell whether a sentence is over: at its mark, and the quotes and brackets behind it."""
    token = atom.tokens[-1]
    return token in (".", "!", "?") or (has_ended and token in ('"', "'", ")", "]", "”", "’"))


def words_of(text: str) -> tuple[str, ...]:
    """Return the tokens that the word tokenizer cuts a text into, without xxbos."""
    return tuple(token for chunk in chunks_of(apply_rules(text))[1:] for token in cut_chunk(chunk))


def capitalise(text: str, mark: str) -> str | None:
    """Write a word as its mark has it; None where that cannot be.

    Args:
        text: lower case, without spaces.
        mark: "xxmaj", "xxup", or "" for as it is.
    """
    if not mark:
        return text
    if not ("a" <= text[:1] <= "z"):
        return None
    if mark == MAJ:
        return text[0].upper() + text[1:]
    upper = "".join(_upper(character) for character in text)
    return upper if upper.lower() == text else "".join(map(_upper_ascii, text))


def _upper(character: str) -> str:
    """Return the capital of a character, if the character comes back when that is lowered."""
    capital = character.upper()
    return capital if len(capital) == 1 and capital.lower() == character else character


def _upper_ascii(character: str) -> str:
    return character.upper() if character.isascii() else character


def repetition(kind: str, count: str, mark: str, token: str) -> Atom | None:
    """Return what `xxrep 4 !` or `xxwrep 3 xxmaj no` stand for; None if they stand for nothing."""
    if not (count.isascii() and count.isdigit()) or not 1 <= int(count) <= MOST_REPEATED:
        return None
    written = capitalise(token, mark)
    if written is None or is_space(token):
        return None
    text = written * int(count) if kind == REP else " ".join([written] * int(count))
    tokens = (kind, count, *([mark] if mark else []), token)
    return Atom(text, tokens)


def spell(atoms: Sequence[Atom], mark: str = "", *, begins: bool = False) -> str:
    """Write the atoms of a word, with as few spaces as give the same tokens again.

    An atom that no text is cut into is written as it is.

    Args:
        atoms: parts that shall stand without spaces.
        mark: "xxmaj" or "xxup" before them, or "".
        begins: whether a sentence begins here: a single "a" has no mark, and is a capital then.
    """
    pieces: list[str] = []
    rest = list(atoms)
    while rest:
        found = (
            (n, written)
            for n in range(len(rest), 0, -1)
            if (written := _spell_whole(rest[:n], mark, begins)) is not None
        )
        n, written = next(found, (1, capitalise(rest[0].text, mark) or rest[0].text))
        pieces.append(written)
        rest, mark, begins = rest[n:], "", False
    return " ".join(pieces)


def _spell_whole(atoms: Sequence[Atom], mark: str, begins: bool) -> str | None:
    """Write atoms without spaces; None unless that is cut into their tokens again."""
    text = "".join(atom.text for atom in atoms)
    tokens = tuple(token for atom in atoms for token in atom.tokens)
    candidates = [capitalise(text, mark)]
    if not mark and is_capital(atoms[0].text, begins):
        candidates.insert(0, text[0].upper() + text[1:])
    wanted = (mark, *tokens) if mark else tokens
    return next((c for c in candidates if c is not None and words_of(c) == wanted), None)


def is_capital(word: str, begins: bool) -> bool:
    """Tell a single letter that English writes as a capital: such words have no mark."""
    return word == "i" or (word == "a" and begins)


def is_mark(token: str) -> bool:
    """Tell the marks of capitals."""
    return token in (MAJ, UP)
