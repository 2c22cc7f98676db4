"""What a check says: a finding with its severity, its rows and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ulmfit_fast.text.rules import FLD
from ulmfit_fast.text.table import TextTable

from .scripts import script_of
from .words import Words

Severity = Literal["error", "warning", "note"]
#: The gravest first: training would refuse or mean nothing; look at it; good to know.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
# Rows that are shown of each finding, and characters of each.
N_EXAMPLES = 3
N_CHARACTERS = 60
_SPACES = re.compile(r"[ \t\r\n]+")
_FIRST_MARK = f"{FLD} 1 "
_MARK = re.compile(rf"(?:^|\s){FLD} \d+ ")


@dataclass(frozen=True)
class Example:
    """A row of a finding.

    Attributes:
        source: its file.
        row: its line or record number, from 1.
        excerpt: of its text or label, on one line, control characters as they are.
        also: what else is to be known of it, such as the row that it repeats; may be empty.
    """

    source: str
    row: int
    excerpt: str
    also: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or odd.

    Attributes:
        name: of the kind of finding, one of `find.NAMES`.
        severity: one of SEVERITIES.
        n: how many rows (of labels: classes) it is about.
        says: what is so, in one sentence without its full stop.
        do: what to do, likewise.
        examples: the first rows.
    """

    name: str
    severity: Severity
    n: int
    says: str
    do: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Tables:
    """The tables of a run, as they were read.

    Attributes:
        train: the training table.
        valid: the validation table; None where a part of train is held out.
        test: the test table, or None.
        unlabelled: more texts for the language model.
    """

    train: TextTable
    valid: TextTable | None = None
    test: TextTable | None = None
    unlabelled: tuple[TextTable, ...] = field(default=())

    @property
    def all(self) -> list[TextTable]:
        """Every table, the training table first."""
        held_out = [table for table in (self.valid, self.test) if table is not None]
        return [self.train, *held_out, *self.unlabelled]

    @cached_property
    def labelled(self) -> list[int]:
        """Indexes of the training texts that have a label."""
        return [i for i, label in enumerate(self.train.labels) if label is not None]

    @property
    def labels(self) -> list[str]:
        """The labels of the training texts that have one."""
        return [label for label in self.train.labels if label is not None]

    @cached_property
    def words(self) -> Words:
        """The words of the training texts."""
        return Words(self.train.texts)

    @cached_property
    def scripts(self) -> list[tuple[str, int]]:
        """The script of each training text, and how many of its first letters are of it."""
        return [script_of(text) for text in self.train.texts]


class Hits:
    """Counts rows and keeps the first ones for examples."""

    def __init__(self) -> None:
        self.n = 0
        self.examples: list[Example] = []

    def add(self, table: TextTable, index: int, at: int = 0, also: str = "") -> None:
        """Count a text of a table; the excerpt shows the place `at`."""
        self.n += 1
        if len(self.examples) < N_EXAMPLES:
            shown = excerpt(table.texts[index], at)
            self.examples.append(Example(table.source, table.rows[index], shown, also))

    def finding(self, name: str, severity: Severity, says: str, do: str) -> Finding:
        """Return the finding of these rows."""
        return Finding(name, severity, self.n, says, do, tuple(self.examples))


def examples_of(
    table: TextTable, indexes: Iterable[int], also: Sequence[str] = ()
) -> tuple[Example, ...]:
    """Return the first of some texts of a table as examples."""
    hits = Hits()
    for place, index in enumerate(indexes):
        if place == N_EXAMPLES:
            break
        hits.add(table, index, also=also[place] if place < len(also) else "")
    return tuple(hits.examples)


def excerpt(text: str, at: int = 0) -> str:
    """Return a part of a text around a place, on one line."""
    start = max(0, at - N_CHARACTERS // 3) if at > N_CHARACTERS // 2 else 0
    stop = start + N_CHARACTERS
    shown = _SPACES.sub(" ", _MARK.sub(" | ", text[start:stop]).removeprefix(" | "))
    return f"{'...' if start else ''}{shown}{'...' if stop < len(text) else ''}"


def plain(text: str) -> str:
    """Return a text without the mark before the first of several fields."""
    return text.removeprefix(_FIRST_MARK)


def count(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def share(n: int, of: int) -> str:
    """Return a share in percent, never 0 or 100 of what is not none or all."""
    percent = 100 * n / max(1, of)
    if 0 < percent < 0.1:
        return "less than 0.1 %"
    if n != of and percent > 99.9:
        return "more than 99.9 %"
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def named(labels: Iterable[str], n_labels: int = 5) -> str:
    """Return the first of some labels in quotes, and how many more there are."""
    all_labels = list(labels)
    shown = ", ".join(f"'{excerpt(label)}'" for label in all_labels[:n_labels])
    n_more = len(all_labels) - n_labels
    return f"{shown} and {n_more:,} more" if n_more > 0 else shown
