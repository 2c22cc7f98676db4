"""Perplexity a word of WikiText-2 for models whose tokens are others than WikiText's words.

WikiText is tokenized text with rare words replaced by `<unk>`; our models read plain text. So the
text is put back as far as it can be (` @-@ ` is `-`, no space before `,`), the nats of all pieces
are added up, and the sum is divided by the number of WikiText's words, `<eos>` of each line among
them. What is comparable and what is not:

- A sum of nats over all pieces of a text bounds the text's own: dividing by the same number of
  words makes models with different tokens comparable with each other.
- Of `<unk>` our models see `xxunk`, which they seldom or never saw: its nats are counted in
  `word_perplexity` and left out, with its words, in `word_perplexity_without_unk`.
- Models that read no line ends are not asked for `<eos>`, which is nearly free for those that are:
  numbers with `<eos>` among the words flatter, those without (`..._without_eos`) do the opposite.
- A published perplexity of WikiText-2 is of a model trained on WikiText's own words: none of these
  numbers is it. `language-model` is the task for that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ulmfit_fast.model import LanguageModel
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.precision import Precision

from .perplexity import token_nats

UNK = "xxunk"
STREAMS = 16
_TITLE = re.compile(r" = [^=].*[^=] = ")
#: Spaces that WikiText's tokenizer put in, taken out in this order.
_JOINS = (
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r" ([.,;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{$£€]) "), r"\1"),
    (re.compile(r" ('(?:s|t|m|d|re|ve|ll)\b)"), r"\1"),
    (re.compile(r" (n't)\b"), r"\1"),
    (re.compile(r'" ([^"]*?) "'), r'"\1"'),
    (re.compile(r" / "), "/"),
    (re.compile(r" – (?=\d)"), "–"),
)


def articles(text: str) -> Iterator[list[str]]:
    """Yield the lines of each article of a WikiText file; a title begins one."""
    lines: list[str] = []
    for line in text.split("\n"):
        if _TITLE.fullmatch(line) and any(each.strip() for each in lines):
            yield lines
            lines = []
        lines.append(line)
    if any(each.strip() for each in lines):
        yield lines


def plain(line: str) -> str:
    """Return a line as text without the tokenizer's spaces, `<unk>` as xxunk."""
    text = line.strip().replace("<unk>", UNK)
    for pattern, joined in _JOINS:
        text = pattern.sub(joined, text)
    return text.strip("= ") if text.startswith("=") else text


def measure(
    model: LanguageModel, tokenizer: Tokenizer, text: str, precision: Precision, *, streams: int
) -> dict[str, Any]:
    """Return the perplexities a word of a WikiText file, and what they are made of.

    Args:
        model: language model.
        tokenizer: its own.
        text: the file as published.
        precision: to compute in.
        streams: parts of the text that run side by side.
    """
    found = list(articles(text))
    documents = ["\n".join(p for line in lines if (p := plain(line))) for lines in found]
    ids = np.concatenate(tokenizer.encode(documents))
    nats = token_nats(model, ids, precision, streams=min(streams, len(ids) - 1)).double().numpy()
    # The beginning of an article is no word of WikiText's, and is not asked for.
    targets = ids[1:]
    asked = targets != tokenizer.bos_id
    unknown = targets == tokenizer.unk_id
    lines = text.split("\n")
    if not lines[-1].strip():
        lines.pop()
    n_words = sum(len(line.split()) for line in lines)
    n_unk = sum(line.split().count("<unk>") for line in lines)
    n_eos = len(lines)
    total, of_unknown = float(nats[asked].sum()), float(nats[asked & unknown].sum())

    def perplexity(sum_of_nats: float, n: int) -> float:
        return math.exp(min(sum_of_nats / n, 700.0))

    return {
        "word_perplexity": perplexity(total, n_words + n_eos),
        "word_perplexity_without_eos": perplexity(total, n_words),
        "word_perplexity_without_unk": perplexity(total - of_unknown, n_words + n_eos - n_unk),
        "piece_perplexity": perplexity(total, int(asked.sum())),
        "nats": total,
        "nats_of_unk": of_unknown,
        "n_pieces": int(asked.sum()),
        "n_unknown_pieces": int((asked & unknown).sum()),
        "n_words": n_words,
        "n_eos": n_eos,
        "n_unk_words": n_unk,
    }
