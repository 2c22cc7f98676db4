"""Texts that are none, are too long or too short, or begin and end alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from ulmfit_fast.text.columns import NUMBER

from .finding import N_EXAMPLES, Example, Finding, Hits, Tables, count, excerpt, plain, share
from .scripts import SCRIPTS_WITHOUT_SPACES

#: Tokens at a text's end that the classifier pools: max_len of the recipe `paper`; `fastai`'s is
#: 40 more.
MAX_LEN = 1_400
# Above this share of the rows, cut texts are more than a few outliers.
MANY_CUT = 0.05
# Fewer rows than these say nothing about all: half of four texts may well begin alike.
ENOUGH_ROWS = 20
# Numbers, dates and ids in so many texts: the column is of another kind, not of texts.
NEARLY_ALL = 0.9
# So few different ones (a tenth) is a column of categories.
FEW_DIFFERENT = 0.1
# Where half of the texts have so many words, one of a single word is an odd one.
USUAL_WORDS = 8
# A beginning of so many characters in half of the texts is of the form, not of the content;
# "What is the " has 12.
SHARED_CHARACTERS, SHARED_BY = 20, 0.5
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[T ][\d:.,+Z-]*(?: ?[AaPp][Mm])?)?")
_LONGEST_ID = 200
_ID = re.compile(r"(?=\S*\d)[\w.:/#+-]+|https?://\S+|\S+@\S+\.\w+|[\w.-]*(?:[/\\][\w.-]+)+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def find_empty(tables: Tables) -> Iterator[Finding]:
    """Find rows without text, which training skips."""
    skipped = [(table.source, row) for table in tables.all for row in table.skipped]
    if skipped:
        examples = [Example(source, row.row, f"({row.reason})") for source, row in skipped]
        n_rows = sum(len(table.rows) + len(table.skipped) for table in tables.all)
        yield Finding(
            "empty-text",
            "warning",
            len(skipped),
            f"{count(len(skipped), 'row has', 'rows have')} no text "
            f"({share(len(skipped), n_rows)} of the rows)",
            "fill them in or delete them; training skips them",
            tuple(examples[:N_EXAMPLES]),
        )


def find_no_texts(tables: Tables) -> Iterator[Finding]:
    """Find a text column that holds something else: one value, numbers, dates, ids, categories."""
    table, n = tables.train, len(tables.train.texts)
    column = "+".join(table.text_columns)
    do = "name the column of the text with --text-column"
    hits, n_different = Hits(), len(set(tables.words.keys))
    if n_different == 1 < n:
        for index in range(n):
            hits.add(table, index)
        yield hits.finding(
            "no-text", "error", f'column "{column}" has the same text in all {n:,} rows', do
        )
        return
    if n < ENOUGH_ROWS:
        return
    for index, text in enumerate(table.texts):
        stripped = text.strip()
        if len(stripped) <= _LONGEST_ID and any(
            pattern.fullmatch(stripped) for pattern in (NUMBER, _DATE, _ID)
        ):
            hits.add(table, index)
    if hits.n >= NEARLY_ALL * n:
        yield hits.finding(
            "no-text",
            "warning",
            f'column "{column}" has numbers, dates, ids or addresses in {share(hits.n, n)} of the '
            "rows, not texts",
            do,
        )
    elif n_different <= FEW_DIFFERENT * n:
        yield Finding(
            "no-text", "warning", n,
            f'column "{column}" has only {count(n_different, "different text")} in {n:,} rows, as '
            "a column of categories has", do,
            tuple(Example(table.source, table.rows[i], excerpt(table.texts[i]))
                  for i in range(N_EXAMPLES)),
        )  # fmt: skip


def find_long(tables: Tables) -> Iterator[Finding]:
    """Find texts of which the classifier pools the end alone."""
    hits, n_rows = Hits(), 0
    for table in tables.all[: len(tables.all) - len(tables.unlabelled)]:
        n_rows += len(table.texts)
        for index, text in enumerate(table.texts):
            if len(text) > MAX_LEN:
                n = n_tokens(text)
                if n > MAX_LEN:
                    hits.add(table, index, also=f"about {n:,} tokens")
    if hits.n:
        yield hits.finding(
            "long-texts",
            "warning" if hits.n > MANY_CUT * n_rows else "note",
            f"{count(hits.n, 'text has', 'texts have')} more than {MAX_LEN:,} tokens "
            f"({share(hits.n, n_rows)} of the rows): the classifier pools their last {MAX_LEN:,}",
            "if the class shows at the beginning, cut them yourself, or split them into several",
        )


def n_tokens(text: str) -> int:
    """Return about how many tokens a text has: words, marks, and xxmaj before capitals."""
    found: list[str] = _TOKEN.findall(text)
    n_capitals = sum(1 for token in found if token[0].isupper() and len(token) > 1)
    return len(found) + n_capitals


def find_short(tables: Tables) -> Iterator[Finding]:
    """Find texts of a single word or none where most have many."""
    table, hits = tables.train, Hits()
    n_words = tables.words.n_words
    if len(n_words) < ENOUGH_ROWS or median(n_words) < USUAL_WORDS:
        return
    offsets = tables.words.offsets
    for index, n in enumerate(n_words):
        has_spaces = tables.scripts[index][0] not in SCRIPTS_WITHOUT_SPACES
        if (n <= 1 and has_spaces) or offsets[index] == offsets[index + 1]:
            hits.add(table, index)
    if hits.n:
        yield hits.finding(
            "short-texts",
            "note",
            f"{count(hits.n, 'text has', 'texts have')} one word or none, where half have "
            f"{median(n_words):,.0f} or more",
            "see whether they say what their label says",
        )


def find_boilerplate(tables: Tables) -> Iterator[Finding]:
    """Find a beginning or an end that half of the texts share."""
    table = tables.train
    texts = [plain(text) for text in table.texts]
    if len(texts) < ENOUGH_ROWS:
        return
    ends: list[tuple[str, Callable[[str], str]]] = [
        ("begin", lambda text: text), ("end", lambda text: text[::-1])
    ]  # fmt: skip
    for where, turned in ends:
        begins = [
            turned(text[:SHARED_CHARACTERS] if where == "begin" else text[-SHARED_CHARACTERS:])
            for text in texts
        ]
        key, n = Counter(begins).most_common(1)[0]
        if n < SHARED_BY * len(texts) or len(key) < SHARED_CHARACTERS:
            continue
        rows = [index for index, begin in enumerate(begins) if begin == key]
        shared = turned(_shared_beginning([turned(texts[index]) for index in rows]))
        hits = Hits()
        for index in rows:
            hits.add(table, index, at=0 if where == "begin" else len(table.texts[index]))
        shown = excerpt(shared) if where == "begin" else excerpt(shared, len(shared))
        yield hits.finding(
            "boilerplate",
            "warning",
            f"{n:,} of {count(len(texts), 'text')} {where} with the same {len(shared):,} "
            f'characters: "{shown}"',
            "cut them off: they say nothing of the class and cost time",
        )


def _shared_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    n = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:n]
