"""Vocabularies: tokenizer.json, and the pickles of fastai, which are interpreted."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

from fuzz.draws import Draw, edited_bytes, edited_file, refuses
from fuzz.places import place
from ulmfit_fast.interop.vocab_pickle import read_vocab_pickle, vocab_pickle
from ulmfit_fast.text.rules import SPECIALS
from ulmfit_fast.text.tokenizer import WordTokenizer, load_tokenizer
from ulmfit_fast.text.vocab import pad_vocab

INSTRUMENTED = [
    "ulmfit_fast.text",
    "ulmfit_fast.interop.vocab_pickle",
    "ulmfit_fast.files",
    "pickletools",
]
WORDS = ["xxunk", "", "ü", "\u2581word", "a\nb", "\U0001f600", "the", "the"]


@cache
def tokenizers() -> list[bytes]:
    """Return the files of a tokenizer of words and one of subwords, without their hashes."""
    vocab = pad_vocab([*SPECIALS, "the", "cat", "\u2581sat"])
    words = WordTokenizer(vocab).content()
    n_pieces = vocab.index("xxfake")
    pieces = {**words, "kind": "subword", "scores": [-float(i) for i in range(n_pieces)]}
    return [json.dumps(content).encode() for content in (words, pieces)]


@cache
def pickles() -> list[bytes]:
    values: list[Any] = [WORDS, tuple(WORDS), WORDS * 20]
    return [vocab_pickle(WORDS), *(pickle.dumps(v, p) for v in values for p in range(6))]


def seeds() -> list[bytes]:
    """Return a good pickle raw, and one edit of each file."""
    raw = [b"\0" + data for data in pickles()]
    edits = [bytes([what, k, *b"\1\2\3\4\5\6\7"]) for what in (1, 2, 3) for k in range(16)]
    return [*raw, *edits, *(b"\4" + content for content in tokenizers())]


def hashed(content: bytes) -> bytes:
    """Return a tokenizer's file with the hash of its content, where that is an object."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(values, dict):
        return content
    values.pop("sha256", None)
    text = json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps({**values, "sha256": digest}).encode()


def run(data: bytes) -> bool:
    """Read the vocabulary that bytes describe; return whether it was refused."""
    draw = Draw(data)
    kind = draw.below(5)
    if kind == 0:
        return refuses(lambda: read_vocab_pickle(draw.rest(), "v.pkl"))
    if kind == 1:
        changed = edited_bytes(draw.pick(pickles()), draw)
        return refuses(lambda: read_vocab_pickle(changed, "v.pkl"))
    content = draw.rest() if kind == 4 else edited_file(draw.pick(tokenizers()), draw)
    path = place("vocabulary") / "tokenizer.json"
    path.write_bytes(content if kind == 2 else hashed(content))
    return refuses(read_and_use(path))


def read_and_use(path: Any) -> Callable[[], object]:
    return lambda: load_tokenizer(path).encode(["The cat sat."])
