r"""fastai 2.8.12's text rules, in its order, and its special tokens.

A text goes through eight rules before it is cut into tokens. They undo markup (`<br />`, `#39;`),
mark what lowercasing would lose (`xxmaj`, `xxup`) and fold repetitions (`xxrep 4 !`, `xxwrep 3 w`),
so that a small vocabulary says more. `apply_rules` gives the same string as
`compose(*defaults.text_proc_rules)` of fastai 2.8.12 for every input; the tests hold it to that.

Source: the rules are those of fastai/text/core.py (Apache-2.0); the implementation is our own.
"""

from __future__ import annotations

import html
import re
from operator import eq

RULES_VERSION = "fastai-2.8"
"""Of the rules and of the cutting into words: part of every tokenizer's fingerprint, so that a
change of either makes cached corpora and saved tokenizers stale."""

UNK, PAD, BOS, EOS, FLD = "xxunk", "xxpad", "xxbos", "xxeos", "xxfld"
REP, WREP, UP, MAJ = "xxrep", "xxwrep", "xxup", "xxmaj"
SPECIALS = (UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ)
UNK_ID, PAD_ID, BOS_ID = 0, 1, 2

# One after the other: a later replacement sees what an earlier one made ("amp;#39;" -> "&'").
MARKUP = (
    ("#39;", "'"),
    ("amp;", "&"),
    ("#146;", "'"),
    ("nbsp;", " "),
    ("#36;", "$"),
    ("\\n", "\n"),
    ("quot;", "'"),
    ("<br />", "\n"),
    ('\\"', '"'),
    ("<unk>", UNK),
    (" @.@ ", "."),
    (" @-@ ", "-"),
    ("...", " …"),
)
REPEATED_CHARACTER = re.compile(r"(\S)(\1{2,})")
REPEATED_WORD = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
SPACED = re.compile(r"([/#\\])")
SPACES = re.compile(r" {2,}")
# fastai's two rules for capitals in one pass: a word in capitals (group 1) or a Capitalised one.
# The look-behind comes second so that the search can skip to the next capital.
CAPITALS = re.compile(r"[A-Z](?<!\S[A-Z])(?:([^a-z\s]*)|[^A-Z\s]*)(?!\S)")


def fix_markup(text: str) -> str:
    """Undo what scraping and other tokenizers leave: HTML entities, `<br />`, `@-@`, `...`."""
    for old, new in MARKUP:
        text = text.replace(old, new)
    return html.unescape(text)


def fold_characters(text: str) -> str:
    """Write three or more of one character as `xxrep n c`."""
    return REPEATED_CHARACTER.sub(_fold_character, text)


def _fold_character(match: re.Match[str]) -> str:
    return f" {REP} {len(match[2]) + 1} {match[1]} "


def fold_words(text: str) -> str:
    """Write three or more of one word as `xxwrep n word`."""
    words = text.split()
    if True not in map(eq, words, words[1:]):  # three times faster than to let the pattern search
        return text
    return REPEATED_WORD.sub(_fold_word, text)


def _fold_word(match: re.Match[str]) -> str:
    return f" {WREP} {len(match[2].split()) + 2} {match[1]} {match[3]}"


def space_marks(text: str) -> str:
    r"""Put spaces around `/`, `#` and `\\`, then leave one space where there are several."""
    return SPACES.sub(" ", SPACED.sub(r" \1 ", text))


def mark_capitals(text: str) -> str:
    """Write WORD as `xxup word` and Word as `xxmaj word`; a single capital is only lowered."""
    return CAPITALS.sub(_lower_word, text)


def _lower_word(match: re.Match[str]) -> str:
    word = match[0]
    if len(word) == 1:
        return word.lower()
    return f"{MAJ if match[1] is None else UP} {word.lower()}"


def apply_rules(text: str) -> str:
    """Run all rules over one text.

    Returns:
        The lower-case text, without spaces at its ends, after `xxbos ` (only that if empty).
    """
    text = space_marks(fold_words(fold_characters(fix_markup(text))))
    return f"{BOS} {mark_capitals(text).lower().strip()}"


def mark_fields(fields: list[str]) -> str:
    """Join the text fields of a row as fastai does: `xxfld 1 a xxfld 2 b`; one stays as it is."""
    if len(fields) == 1:
        return fields[0]
    return " ".join(f"{FLD} {number} {field}" for number, field in enumerate(fields, 1))
