"""Texts that stand in a table twice, or in two tables that should have none in common."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from ulmfit_fast.text.table import TextTable

from .finding import Finding, Hits, Tables, count, share
from .words import key_of


def repeats(keys: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield (first, repeat), the indexes of a key and of each that is equal to it, in order."""
    seen: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        first = seen.setdefault(key, index)
        if first != index:
            yield first, index


def common(keys: Sequence[Hashable], others: Sequence[Hashable]) -> list[int]:
    """Return the indexes of the keys that are among others."""
    known = set(others)
    return [index for index, key in enumerate(keys) if key in known]


def find_repeats(tables: Tables) -> Iterator[Finding]:
    """Find texts that repeat one before them, with the same label (duplicates) or another."""
    table = tables.train
    same, other = Hits(), Hits()
    for first, index in repeats(tables.words.keys):
        labels = table.labels[first], table.labels[index]
        if None not in labels and labels[0] != labels[1]:
            also = f"{labels[1]!r}, but row {table.rows[first]} is {labels[0]!r}"
            other.add(table, index, also=also)
        else:
            same.add(table, index, also=f"as row {table.rows[first]}")
    if same.n:
        yield same.finding(
            "duplicates",
            "warning",
            f"{count(same.n, 'text repeats', 'texts repeat')} one before "
            f"{'it' if same.n == 1 else 'them'} but for case and spaces "
            f"({share(same.n, len(table.texts))} of the rows)",
            "leave one of each, unless they are to count several times",
        )
    if other.n:
        yield other.finding(
            "conflicting-labels",
            "warning",
            f"{count(other.n, 'text has', 'texts have')} another label than the same text in an "
            "earlier row",
            "decide for one label each: the classifier cannot learn both",
        )


def find_leaks(tables: Tables) -> Iterator[Finding]:
    """Find texts of the validation and test tables that also stand where they should not."""
    keys = {id(tables.train): tables.words.keys}
    for table in (tables.valid, tables.test):
        if table is not None:
            keys[id(table)] = [key_of(text) for text in table.texts]
    pairs = [("validation", tables.valid, "training", tables.train),
             ("test", tables.test, "training", tables.train),
             ("test", tables.test, "validation", tables.valid)]  # fmt: skip
    for name, table, other_name, other in pairs:
        if table is not None and other is not None:
            yield from _leak(name, table, keys[id(table)], other_name, other, keys[id(other)])


def _leak(
    name: str, table: TextTable, keys: list[bytes], other_name: str, other: TextTable,
    other_keys: list[bytes],
) -> Iterator[Finding]:  # fmt: skip
    first = dict(zip(reversed(other_keys), reversed(other.rows), strict=True))
    hits = Hits()
    for index in common(keys, other_keys):
        hits.add(table, index, also=f"as row {first[keys[index]]} of {other.source}")
    if hits.n:
        yield hits.finding(
            "leak",
            "warning",
            f"{hits.n:,} of {count(len(table.texts), f'{name} text')} "
            f"{'stands' if hits.n == 1 else 'stand'} in the {other_name} file too, but for case "
            "and spaces",
            f"take {'it' if hits.n == 1 else 'them'} out of {other.source}: the {name} result is "
            "that much too good",
        )
