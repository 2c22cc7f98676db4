"""Text in: tables of texts, tokenizers, corpora of ids, batches."""

from .batches import ClassifierBatch, ClassifierBatches, LMStream
from .corpus import Corpus
from .rules import BOS_ID, PAD_ID, SPECIALS, UNK_ID, apply_rules
from .table import SkippedRow, TextTable, read_table
from .tokenizer import Tokenizer, WordTokenizer, load_tokenizer, train_tokenizer

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
    "TextTable",
    "Tokenizer",
    "WordTokenizer",
    "apply_rules",
    "load_tokenizer",
    "read_table",
    "train_tokenizer",
]
