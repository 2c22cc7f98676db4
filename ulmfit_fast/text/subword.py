"""The subword tokenizer: fastai's rules, then unigram pieces by HF `tokenizers` (Rust).

The pieces are trained on text that went through the rules, not on raw text: case lives in `xxmaj`
and `xxup`, so "Good", "GOOD" and "good" share their pieces, and both tokenizers have the same
special tokens with the same meaning. The text is also brought to NFKC and to single spaces.

Reference: Kudo 2018, arXiv:1804.10959 (unigram language model).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .messages import Ids
from .offsets import spans_of, trace_normal
from .rules import SPECIALS, UNK, apply_rules
from .tokenizer import Tokenizer
from .vocab import FAKE, pad_vocab

_SPECIAL_WORDS = re.compile(rf"\b(?:{'|'.join(SPECIALS)})\b")
_WORD_START = "▁"


def _normalise(text: str) -> str:
    # Half a surrogate pair, which JSON can hold, cannot go to Rust.
    text = text.encode("utf-8", "replace").decode()
    return " ".join(unicodedata.normalize("NFKC", apply_rules(text)).split())


class SubwordTokenizer(Tokenizer):
    """Unigram pieces of text that went through fastai's rules. Unknown characters get unk_id.

    A piece that starts a word begins with `▁`.
    """

    kind = "subword"

    def __init__(self, vocab: Sequence[str], scores: Sequence[float]) -> None:
        """Take the piece of each id and its log-probability, without those of the padding."""
        from tokenizers import AddedToken, pre_tokenizers
        from tokenizers import Tokenizer as Pipeline
        from tokenizers.models import Unigram

        super().__init__(vocab)
        n_pieces = len(vocab) - list(vocab).count(FAKE)
        if len(scores) != n_pieces:
            raise InputError(f"{n_pieces} pieces have {len(scores)} scores: train again")
        self._scores = list(scores)
        pieces = list(zip(self.vocab, self._scores, strict=False))
        self._pipeline = Pipeline(Unigram(pieces, unk_id=self.unk_id, byte_fallback=False))
        self._pipeline.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        self._pipeline.add_special_tokens(
            [AddedToken(t, lstrip=True, single_word=True, normalized=False) for t in SPECIALS]
        )

    def content(self) -> dict[str, Any]:
        """Return all that decides which ids a text gets, for JSON."""
        return {**super().content(), "scores": self._scores}

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text, int32 [n_tokens]."""
        normal = [_normalise(text) for text in texts]
        encodings = self._pipeline.encode_batch_fast(normal, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of one text."""
        return [self.vocab[i] for i in self.encode([text])[0]]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each piece stands in the text."""
        traced = trace_normal(text)
        encoding = self._pipeline.encode(traced.text, add_special_tokens=False)
        return spans_of(traced, encoding.offsets)

    def count_unknown(self, texts: Iterable[str]) -> tuple[int, Counter[str]]:
        """Return how many words texts have, special tokens aside, and those of unknown pieces."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_normalise(text).split())
        words = [word for word in counts if word not in SPECIALS]
        encoded = self._pipeline.encode_batch_fast(
            [f" {word}" for word in words], add_special_tokens=False
        )
        pairs = zip(words, encoded, strict=True)
        unknown = {word: counts[word] for word, pieces in pairs if self.unk_id in pieces.ids}
        return sum(counts[word] for word in words), Counter(unknown)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that ids spell, special tokens included."""
        pieces = (self.vocab[int(i)] for i in ids)
        text = "".join(f" {piece}" if piece in SPECIALS else piece for piece in pieces)
        return text.replace(_WORD_START, " ").strip()


def _without_specials(text: str) -> str:
    return _SPECIAL_WORDS.sub(" ", _normalise(text))


def train_subwords(texts: Iterable[str], *, max_vocab: int, min_freq: int) -> SubwordTokenizer:
    """Train unigram pieces; the same texts give the same tokenizer.

    Args:
        texts: read twice; their distinct words are kept, in memory.
        max_vocab: most pieces, specials included, padding not; at most half are single characters.
        min_freq: characters seen less often are unknown.

    Raises:
        InputError: there is no word in texts.
    """
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers, trainers

    if iter(texts) is texts:  # what can be read once only is kept
        texts = list(texts)
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(_without_specials(text))
    del characters[" "]
    if not characters:
        raise InputError("cannot train a subword tokenizer: there is no word in the texts")
    most_common = characters.most_common(max_vocab // 2 - len(SPECIALS))
    kept = {c for c, n in most_common if n >= min_freq} or {most_common[0][0]}
    unknown = {ord(c): " " for c in characters.keys() - kept}
    pipeline = Pipeline(models.Unigram())
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(
        vocab_size=max_vocab, special_tokens=list(SPECIALS), unk_token=UNK, show_progress=False
    )
    known = (_without_specials(text).translate(unknown).split() for text in texts)
    pipeline.train_from_iterator((" " + " ".join(words) for words in known), trainer)
    pieces = _in_fixed_order(json.loads(pipeline.to_str())["model"]["vocab"])
    vocab = pad_vocab([*SPECIALS, *(piece for piece, _ in pieces)])
    return SubwordTokenizer(vocab, [0.0] * len(SPECIALS) + [score for _, score in pieces])


def _in_fixed_order(trained: list[list[Any]]) -> list[tuple[str, float]]:
    """Sort trained pieces by score, free of the order of the trainer's hash maps.

    The trainer (tokenizers 0.23) gives characters that pruning removed scores of min + k * 1e-4,
    k in the order of a hash map, and its sums differ in the last bits from run to run.
    """
    pieces = [(piece, float(score)) for piece, score in trained if piece not in SPECIALS]
    lowest = min(score for _, score in pieces)
    n_single = sum(len(piece) == 1 for piece, _ in pieces)
    put_back = lowest + n_single * 1e-4
    fixed = [(p, round(lowest if len(p) == 1 and s < put_back else s, 6)) for p, s in pieces]
    return sorted(fixed, key=lambda entry: (-entry[1], entry[0]))
