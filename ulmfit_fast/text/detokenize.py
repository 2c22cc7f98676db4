"""Tokens back to text, word by word: marks of the rules undone, spaces where English has them.

    xxmaj the film is n't xxup bad , it is xxrep 3 !  ->  The film isn't BAD, it is!!!

Text of a word tokenizer comes out so that it is cut into the same tokens again (all but what no
text gives: `no no no` is `xxwrep 3 no`, a mark with nothing to mark is dropped). Text of a
subword tokenizer gets the spaces that its pieces have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from .rules import BOS, MAJ, REP, SPECIALS, UNK, UP, WREP
from .spelling import (
    Atom,
    Quotes,
    belongs_to,
    capitalise,
    ends_sentence,
    is_capital,
    is_genitive,
    is_mark,
    is_space,
    joins,
    repetition,
    space_of,
    spell,
)
from .tokenizer import Tokenizer

_WORD_START = "▁"
# Stands for a character that a subword tokenizer does not know, and is none that it knows.
_UNKNOWN = "\ufffd"
_MARKS = frozenset(SPECIALS) - {UNK}  # words of their own; an unknown character is a part of one
# A word of more atoms is written in parts, so that punctuation without end is not held for ever.
_MOST_ATOMS = 12


class Detokenizer(ABC):
    """Takes tokens one at a time and returns text as soon as it is certain.

    The text of all calls together, `finish` included, is the text of the tokens.
    """

    @abstractmethod
    def push(self, token: str) -> str:
        """Take a token; return what is certain now, often nothing."""

    @abstractmethod
    def finish(self) -> str:
        """Return what is left."""

    @abstractmethod
    def begin(self, tokens: Iterable[str]) -> None:
        """Go on behind tokens whose text is written already, as a prompt is."""


class _Marks:
    """Collects `xxrep n c`, `xxwrep n word` and the marks of capitals in front of words."""

    def __init__(self) -> None:
        self._held: list[str] = []

    def take(self, token: str) -> tuple[str, Atom] | None:
        """Return (mark of capitals, atom) once a word is whole, None before.

        A mark without what it needs is dropped.
        """
        held = self._held
        if token in (REP, WREP):
            self._held = [token]
            return None
        if is_mark(token):
            # The word of a repetition has a mark of its own.
            self._held = [*held, token] if len(held) == 2 and held[0] == WREP else [token]
            return None
        if len(held) == 1 and held[0] in (REP, WREP):
            held.append(token)
            return None
        self._held = []
        if len(held) >= 2:
            mark = held[2] if len(held) == 3 else ""
            atom = repetition(held[0], held[1], mark, token)
            return "", atom or Atom(token, (token,))
        return held[0] if held else "", Atom(token, (token,))

    def drop(self) -> None:
        """Forget a mark that nothing followed."""
        self._held = []


class WordDetokenizer(Detokenizer):
    """Puts the tokens of a word tokenizer together."""

    def __init__(self) -> None:
        self._marks = _Marks()
        self._quotes = Quotes()
        self._word: list[Atom] = []
        self._mark = ""
        self._begins = True  # whether the word begins a sentence
        self._n_written, self._written = 0, ""  # atoms and text of the word that a prompt has
        self._before: Atom | None = None  # the last atom on the line
        self._has_ended = False  # whether that ended a sentence
        self._is_first = self._is_after_space = True

    def push(self, token: str) -> str:
        """Take a token."""
        if token == BOS and self._is_first and not self._word:
            return ""
        if is_space(token):
            text = self._close() + space_of(token)
            self._marks.drop()
            self._is_after_space, self._before = True, None
            self._quotes.see(token, None)
            return text
        taken = self._marks.take(token)
        return "" if taken is None else self._add(*taken)

    def finish(self) -> str:
        """Return the last word."""
        self._marks.drop()
        return self._close()

    def begin(self, tokens: Iterable[str]) -> None:
        """Go on behind the text of tokens; what comes may still belong to its last word."""
        for token in tokens:
            self.push(token)
        self._n_written = len(self._word)
        self._written = spell(self._word, self._mark, begins=self._begins)

    def _add(self, mark: str, atom: Atom) -> str:
        """Take a part of a word; return the word before it, if it begins a new one."""
        text, before = "", self._before
        if mark or before is None or not self._takes(atom, before):
            text = self._close()
            self._mark = mark
            self._begins = before is None or self._has_ended
        self._has_ended = ends_sentence(atom, self._has_ended)
        self._quotes.see(atom.tokens[-1], before.tokens[-1] if before else None)
        self._word.append(atom)
        self._before = atom
        return text

    def _takes(self, atom: Atom, before: Atom) -> bool:
        """Tell whether an atom belongs to the word that is open."""
        if len(self._word) >= _MOST_ATOMS:
            return False
        if self._mark and len(self._word) == 1 and len(self._word[0].text) == 1:
            return True  # a letter that stands alone has no mark, as in "I'm"
        return joins(before, atom, self._quotes) and not (self._mark == UP and is_genitive(atom))

    def _close(self) -> str:
        """Return the word that is whole now, without what of it is written already."""
        if not self._word:
            return ""
        word, written, n_written = self._word, self._written, self._n_written
        text = spell(word, self._mark, begins=self._begins)
        # The rule for repeated words takes the white space before them away.
        is_spaced = not self._is_after_space or (not self._is_first and word[0].is_words)
        self._word, self._mark, self._written, self._n_written = [], "", "", 0
        self._is_first = self._is_after_space = False
        if n_written:
            rest = "".join(atom.text for atom in word[n_written:])
            return text[len(written) :] if text.startswith(written) else rest
        return f" {text}" if is_spaced else text


class SubwordDetokenizer(Detokenizer):
    """Puts pieces together: their spaces are known, marks and repetitions are undone."""

    def __init__(self) -> None:
        self._marks = _Marks()
        self._pieces = ""
        self._before: Atom | None = None
        self._has_ended = True  # whether a sentence begins
        self._continues = False  # whether text that is written may go on without a space

    def push(self, token: str) -> str:
        """Take a piece."""
        if token == BOS and self._before is None and not self._pieces:
            return ""
        text = ""
        if token in _MARKS or token.startswith(_WORD_START) or self._pieces in _MARKS:
            text = self._close()
        self._pieces += _UNKNOWN if token == UNK else token
        return text

    def finish(self) -> str:
        """Return the last word."""
        text = self._close()
        self._marks.drop()
        return text

    def begin(self, tokens: Iterable[str]) -> None:
        """Go on behind the text of pieces; what comes may still belong to its last word."""
        for token in tokens:
            self.push(token)
        self._close()
        self._continues = True

    def _close(self) -> str:
        """Return the word that is whole now."""
        pieces, self._pieces = self._pieces, ""
        word = pieces.replace(_WORD_START, " ").strip()
        if not word:
            return ""
        is_joined = self._continues and not pieces.startswith(_WORD_START)
        self._continues = False
        taken = self._marks.take(word)
        if taken is None:
            return ""
        mark, atom = taken
        before, self._before = self._before, atom
        begins, self._has_ended = self._has_ended, ends_sentence(atom, self._has_ended)
        capital = MAJ if not mark and is_capital(atom.text, begins) else mark
        text = capitalise(atom.text, capital) or atom.text
        is_joined = is_joined or before is None or belongs_to(before, atom)
        return text if is_joined else f" {text}"


def detokenizer_of(tokenizer: Tokenizer) -> Detokenizer:
    """Return what undoes a tokenizer."""
    return WordDetokenizer() if tokenizer.kind == "word" else SubwordDetokenizer()


def detokenize(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Return the text of ids, without xxbos at its beginning.

    Args:
        tokenizer: whose ids they are.
        ids: in [0, V).
    """
    detokenizer = detokenizer_of(tokenizer)
    pieces = [detokenizer.push(tokenizer.vocab[int(i)]) for i in ids]
    return "".join([*pieces, detokenizer.finish()])
