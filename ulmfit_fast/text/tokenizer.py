"""Tokenizers: text to ids and back, one JSON file each.

    WordTokenizer     fastai's rules, then spaCy's English words; ids by frequency. Its vocabulary
                      is fastai's, token by token, so fastai's models and ours can exchange it.
    SubwordTokenizer  fastai's rules, then unigram pieces (subword.py). For languages whose words
                      are many; knows every character it has seen min_freq times.

Both start every text with `xxbos` and give xxunk, xxpad, xxbos the ids 0, 1, 2.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from ..errors import InputError
from ..files import LARGEST_JSON, parse_json, read_regular
from .messages import Ids
from .offsets import spans_of, trace_rules
from .rules import BOS, BOS_ID, PAD, PAD_ID, RULES_VERSION, SPECIALS, UNK, UNK_ID, apply_rules
from .segment import CHUNKS, LONGEST_REMEMBERED, REMEMBERED, chunks_of, cut_chunk
from .vocab import FAKE, MOST_WORDS, Progress, check_texts, count_words, make_vocab

FORMAT = "ulmfit_fast.tokenizer"
FORMAT_VERSION = 1


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        kind: "word" or "subword".
        vocab: the token of each id; its length is a multiple of 8.
    """

    kind: ClassVar[str]
    unk_id, pad_id, bos_id = UNK_ID, PAD_ID, BOS_ID

    def __init__(self, vocab: Sequence[str]) -> None:
        """Take the token of each id; the first three must be xxunk, xxpad, xxbos."""
        if list(vocab[:3]) != [UNK, PAD, BOS]:
            raise InputError(
                f"a vocabulary must begin with {UNK}, {PAD}, {BOS}, this one begins with "
                f"{list(vocab[:3])}: make it with train_tokenizer"
            )
        self.vocab = list(vocab)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text, int32 [n_tokens], beginning with bos_id."""

    @abstractmethod
    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of one text, beginning with xxbos."""

    @abstractmethod
    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each token stands in the text: (start, end) in characters, never falling.

        start == end of what the rules put in: it stands where the word that it marks begins.
        """

    @abstractmethod
    def count_unknown(self, texts: Iterable[str]) -> tuple[int, Counter[str]]:
        """Return how many words texts have, special tokens aside, and those that are unknown."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text: the tokens of ids, put together."""

    def content(self) -> dict[str, Any]:
        """Return all that decides which ids a text gets, for JSON."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "kind": self.kind,
            "rules": RULES_VERSION,
            "vocab": self.vocab,
        }

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all that decides which ids a text gets."""
        return _fingerprint(self.content())

    def save(self, path: Path) -> None:
        """Write one JSON file; an existing file is replaced whole or not at all."""
        content = {**self.content(), "sha256": self.fingerprint()}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with open(partial, "w", encoding="utf-8", errors="surrogatepass") as file:
            json.dump(content, file, ensure_ascii=False, indent=0)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


class _ChunkIds(dict[str, tuple[int, ...]]):
    """Chunk to ids, filled on first use."""

    def __init__(self, vocab: Sequence[str]) -> None:
        super().__init__()
        self._id_of = {token: i for i, token in enumerate(vocab) if token != FAKE}

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        is_long = len(chunk) > LONGEST_REMEMBERED
        cut = cut_chunk.__wrapped__ if is_long else cut_chunk
        ids = tuple(self._id_of.get(token, UNK_ID) for token in cut(chunk))
        if len(self) < REMEMBERED and not is_long:
            self[chunk] = ids
        return ids


class WordTokenizer(Tokenizer):
    """fastai's rules and words; ids by frequency. Unknown words get unk_id."""

    kind = "word"

    def __init__(self, vocab: Sequence[str]) -> None:
        super().__init__(vocab)
        self._ids_of = _ChunkIds(self.vocab)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text, int32 [n_tokens]."""
        ids_of = self._ids_of.__getitem__
        return [
            np.fromiter(
                chain.from_iterable(map(ids_of, chunks_of(apply_rules(text)))), dtype=np.int32
            )
            for text in texts
        ]

    def tokenize(self, text: str) -> list[str]:
        """Return the words, also those without an id, of one text."""
        return [token for chunk in chunks_of(apply_rules(text)) for token in cut_chunk(chunk)]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each token stands in the text."""
        traced = trace_rules(text)
        places = []
        for chunk in CHUNKS.finditer(traced.text):
            end = chunk.start()
            for token in cut_chunk(chunk[0]):
                start, end = end, end + len(token)
                places.append((start, end))
        return spans_of(traced, places)

    def count_unknown(self, texts: Iterable[str]) -> tuple[int, Counter[str]]:
        """Return how many words texts have, special tokens aside, and those without an id."""
        counts = count_words(texts)
        known = set(self.vocab) - {FAKE}
        unknown = {word: n for word, n in counts.items() if word not in known}
        return sum(counts[word] for word in counts.keys() - set(SPECIALS)), Counter(unknown)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words of ids with a space between them."""
        return " ".join(self.vocab[int(i)] for i in ids)


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: str = "word",
    max_vocab: int = 60_000,
    min_freq: int = 3,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Make a tokenizer for texts.

    Args:
        texts: what it shall be good at; words are counted in one pass, whose memory does not grow
            with the texts (`vocab.count_words`).
        kind: "word" or "subword".
        max_vocab: most tokens, before the padding to a multiple of 8; fewer where texts are few.
        min_freq: tokens (word) or characters (subword) seen less often are unknown.
        processes: that count words; None takes one for each core where there is much text.
        progress: told (texts done, texts) on the way.

    Raises:
        InputError: kind is neither, max_vocab is below 32, texts is one string, or there is no word
            in texts.
    """
    check_texts(texts)
    if max_vocab < 32:
        raise InputError(f"max_vocab is {max_vocab}: a vocabulary needs at least 32 tokens")
    if kind == "word":
        most = max(MOST_WORDS, 8 * max_vocab)
        counts = count_words(texts, most=most, processes=processes, progress=progress)
        if not counts.keys() - set(SPECIALS):
            raise InputError("cannot make a vocabulary: there is no word in the texts")
        return WordTokenizer(make_vocab(counts, max_vocab=max_vocab, min_freq=min_freq))
    if kind == "subword":
        from .subword import train_subwords

        return train_subwords(texts, max_vocab=max_vocab, min_freq=min_freq)
    raise InputError(f'kind of tokenizer "{kind}" is unknown: use "word" or "subword"')


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Read a file written by `Tokenizer.save`.

    Raises:
        InputError: the file is missing, damaged, or of another format version.
    """
    try:
        content = read_regular(Path(path), LARGEST_JSON)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such tokenizer file: train one first") from None
    return parse_tokenizer(content, path)


def parse_tokenizer(data: bytes, path: Path | str) -> Tokenizer:
    """Return the tokenizer of a file's content; path names it. Errors as of load_tokenizer."""
    try:
        content = parse_json(data, path)
    except InputError as error:
        raise InputError(f"{error}: cannot read the tokenizer, make it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a tokenizer of ulmfit_fast: give the file that save() wrote")
    if content.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: tokenizer format {content.get('version')}, this release reads "
            f"{FORMAT_VERSION}: use the release that wrote it or train again"
        )
    if content.pop("sha256", None) != _fingerprint(content):
        raise InputError(f"{path}: the tokenizer file is damaged (SHA-256 differs): restore it")
    if content.get("rules") != RULES_VERSION:
        raise InputError(
            f"{path}: made with text rules {content.get('rules')}, this release has "
            f"{RULES_VERSION}: train again"
        )
    _check_content(content, path)
    return tokenizer_of(content)


def _check_content(content: dict[str, Any], path: Path | str) -> None:
    """Raise InputError unless a file has tokens, and scores where its kind needs them."""
    vocab, kind, scores = (content.get(name) for name in ("vocab", "kind", "scores"))
    if kind not in ("word", "subword"):
        raise InputError(f'{path}: kind of tokenizer "{kind}" is unknown: make it again')
    if not isinstance(vocab, list) or not all(isinstance(token, str) for token in vocab):
        raise InputError(f"{path}: its vocabulary is no list of tokens: make it again")
    if kind == "word":
        return
    if not isinstance(scores, list) or not all(map(_is_score, scores)):
        raise InputError(f"{path}: its scores are no list of numbers: make it again")
    for token in vocab:  # half characters cannot go to Rust
        if not token.isascii() and any("\ud800" <= c <= "\udfff" for c in token):
            raise InputError(f"{path}: its piece {token!r} is no text: make it again")


def _is_score(value: object) -> bool:
    return type(value) in (int, float) and -1e300 < cast(float, value) < 1e300


def tokenizer_of(content: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of what `Tokenizer.content` returned."""
    if content["kind"] == "word":
        return WordTokenizer(content["vocab"])
    from .subword import SubwordTokenizer

    return SubwordTokenizer(content["vocab"], content["scores"])


def _fingerprint(content: dict[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
