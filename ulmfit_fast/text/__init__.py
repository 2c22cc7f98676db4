"""Text in: tables of texts, tokenizers, corpora of ids, batches.

Importing this package loads nothing but itself; each name below loads its module when first used,
so that a process that only tokenizes needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batches import ClassifierBatch, ClassifierBatches, LMStream
    from .corpus import Corpus, Texts, check_ids
    from .rules import BOS_ID, PAD_ID, SPECIALS, UNK_ID, apply_rules
    from .stream import TextStream, stream_texts
    from .table import SkippedRow, TextTable, read_table
    from .tokenizer import Tokenizer, WordTokenizer, load_tokenizer, train_tokenizer

_NAMES = {
    "batches": ("ClassifierBatch", "ClassifierBatches", "LMStream"),
    "corpus": ("Corpus", "Texts", "check_ids"),
    "rules": ("BOS_ID", "PAD_ID", "SPECIALS", "UNK_ID", "apply_rules"),
    "stream": ("TextStream", "stream_texts"),
    "table": ("SkippedRow", "TextTable", "read_table"),
    "tokenizer": ("Tokenizer", "WordTokenizer", "load_tokenizer", "train_tokenizer"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "BOS_ID",
    "PAD_ID",
    "SPECIALS",
    "UNK_ID",
    "ClassifierBatch",
    "ClassifierBatches",
    "Corpus",
    "LMStream",
    "SkippedRow",
    "TextStream",
    "TextTable",
    "Texts",
    "Tokenizer",
    "WordTokenizer",
    "apply_rules",
    "check_ids",
    "load_tokenizer",
    "read_table",
    "stream_texts",
    "train_tokenizer",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
