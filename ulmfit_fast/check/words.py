"""The words of many texts: one pass for what equal, nearly equal and long texts are told by."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Sequence
from hashlib import blake2b

_WORD = re.compile(r"[^\W\d_]+")


class Words:
    """Of each text its key, its number of words and its words as numbers.

    Attributes:
        keys: of each text; equal for texts that differ by case, spaces or Unicode form alone.
        n_words: words between spaces of each text.
        ids: the words of letters of all texts, a number for each different one.
        offsets: where each text begins in ids, and the end.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.keys: list[bytes] = []
        self.n_words: list[int] = []
        self.ids, self.offsets = array("I"), array("q", [0])
        numbers: dict[str, int] = {}
        for text in texts:
            folded = folded_words(text)
            self.n_words.append(len(folded))
            line = " ".join(folded)
            self.keys.append(_digest(line))
            found = _WORD.findall(line)
            self.ids.extend([numbers.setdefault(word, len(numbers)) for word in found])
            self.offsets.append(len(self.ids))


def folded_words(text: str) -> list[str]:
    """Return the words between spaces, without differences of case and Unicode form."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.casefold().split()


def key_of(text: str) -> bytes:
    """Return what is equal for texts that differ by case, spaces or Unicode form alone."""
    return _digest(" ".join(folded_words(text)))


def _digest(line: str) -> bytes:
    return blake2b(line.encode("utf-8", "surrogatepass"), digest_size=16).digest()
