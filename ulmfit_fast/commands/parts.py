"""Labelled texts: their checks, the validation part held out, and what is odd about them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ulmfit_fast.check.labels import has_few_rows_a_class, is_a_class_each, is_one_class
from ulmfit_fast.check.repeats import common, repeats
from ulmfit_fast.commands.terminal import listing, shorten
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import SkippedRow, TextTable


@dataclass(frozen=True)
class Part:
    """Labelled texts of one source.

    Attributes:
        texts: documents.
        labels: a class name for each.
        rows: row of each in the source, from 1.
        source: file, for messages.
    """

    texts: list[str]
    labels: list[str]
    rows: list[int]
    source: str

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indexes: Iterable[int]) -> Part:
        """Return some of the rows."""
        chosen = list(indexes)
        return Part(
            [self.texts[i] for i in chosen],
            [self.labels[i] for i in chosen],
            [self.rows[i] for i in chosen],
            self.source,
        )


def labelled_part(table: TextTable) -> Part:
    """Return the rows of a table that have a label."""
    rows = [
        (text, label, row)
        for text, label, row in zip(table.texts, table.labels, table.rows, strict=True)
        if label is not None
    ]
    return Part([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], table.source)


def rows_without_label(table: TextTable) -> list[tuple[str, SkippedRow]]:
    """Return the other rows as skipped ones, with their source."""
    column = table.label_column or ""
    return [
        (table.source, SkippedRow(row, column, "no label"))
        for row, label in zip(table.rows, table.labels, strict=True)
        if label is None
    ]


def check_classes(part: Part) -> None:
    """Raise InputError unless the labels are classes: two or more, and not one for each row."""
    if is_one_class(part.labels):
        raise InputError(
            f"{part.source}: all {len(part)} labelled rows have the one label "
            f"'{shorten(part.labels[0])}'; a classifier needs at least two classes (is this the "
            "right column? see --label-column)"
        )
    if is_a_class_each(part.labels):
        raise InputError(
            f"{part.source}: each of the {len(part)} labelled rows has a label of its own, such as "
            f"'{shorten(part.labels[0])}'; give more rows of each class, or name the column of "
            "classes with --label-column"
        )


def check_labels(part: Part, known: set[str], where: str) -> None:
    """Raise InputError for the first row whose label is not among the known ones."""
    for row, label in zip(part.rows, part.labels, strict=True):
        if label not in known:
            raise InputError(
                f"{part.source}, row {row}: the label '{shorten(label)}' is not in {where} "
                f"(labels: {listing([shorten(name, 30) for name in sorted(known)], 8)}); correct "
                "it or train with such rows"
            )


def hold_out(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """Split rows into training and validation by class; equal texts stay together.

    Every class keeps a training row. The same rows and seed give the same split.

    Args:
        part: the rows.
        share: of each class, to hold out.
        seed: of the shuffling.

    Raises:
        InputError: no text can be held out without taking a class its last training row.
    """
    by_text: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(part.texts):
        by_text[text].append(index)
    by_class: dict[str, list[list[int]]] = defaultdict(list)
    for indexes in by_text.values():
        by_class[part.labels[indexes[0]]].append(indexes)
    left = Counter(part.labels)
    shuffle = random.Random(seed).shuffle
    held_out: list[int] = []
    for label in sorted(by_class):
        groups = by_class[label]
        shuffle(groups)
        wanted = round(share * sum(map(len, groups)))
        held_out += _take(groups, wanted, part.labels, left)
    if not held_out:
        for label in sorted(by_class, key=lambda label: (-len(by_class[label]), label)):
            held_out = held_out or _take(by_class[label], 1, part.labels, left)
    if not held_out:
        n = len(set(part.labels))
        raise InputError(
            f"{part.source}: {n:,} classes for {len(by_text):,} different texts, so that none can "
            "be held out for validation: if that is the wrong column, name the label's with "
            "--label-column; else give more rows, or a validation file with --valid"
        )
    chosen = set(held_out)
    return part.take(i for i in range(len(part)) if i not in chosen), part.take(sorted(chosen))


def _take(
    groups: Sequence[list[int]], wanted: int, labels: Sequence[str], left: Counter[str]
) -> list[int]:
    """Take groups of rows from the end until wanted rows are reached; the first one stays.

    A group stays, too, if a label would have no row left; `left` counts the rows of each label.
    """
    taken: list[int] = []
    for group in reversed(groups[1:]):
        if len(taken) >= wanted:
            break
        of_group = Counter(labels[index] for index in group)
        if all(left[label] > n for label, n in of_group.items()):
            taken += group
            left.subtract(of_group)
    return taken


def notes_on(labelled: Part, train: Part, valid: Part, test: Part | None) -> list[str]:
    """Say what is odd about the data and may change what the results mean."""
    notes = []
    first_row = dict(zip(reversed(labelled.labels), reversed(labelled.rows), strict=True))
    for label, count in sorted(Counter(labelled.labels).items()):
        if count == 1:
            notes.append(
                f"class '{shorten(label)}' has a single row ({labelled.source}, row "
                f"{first_row[label]}): it cannot be learnt or measured"
            )
    unmeasured = {label for label, n in Counter(labelled.labels).items() if n > 1}
    unmeasured -= set(valid.labels)
    if unmeasured:
        names = listing([f"'{shorten(label, 30)}'" for label in sorted(unmeasured)])
        notes.append(
            f"{len(unmeasured)} of {len(first_row)} classes have no row to validate on ({names}): "
            "how well they are found is not measured"
        )
    n_classes = len(set(labelled.labels))
    if has_few_rows_a_class(n_classes, len(labelled)):
        notes.append(
            f"{n_classes} classes for {len(labelled):,} labelled rows: few rows a class to learn "
            "from (is this the right column? see --label-column)"
        )
    notes += _repeats(labelled)
    pairs = [("validation", valid, train), ("test", test, train), ("test", test, valid)]
    for name, part, other in pairs:
        both = [part.rows[i] for i in common(part.texts, other.texts)] if part is not None else []
        if part is not None and both:
            where = "training" if other is train else "validation"
            notes.append(
                f"{len(both)} of {len(part)} {name} texts stand in the {where} part too (rows "
                f"{listing(both)} of {part.source}): the {name} result is that much too good"
            )
    return notes


def _repeats(part: Part) -> list[str]:
    """Say how many texts are repeated, and how many have two labels."""
    repeated = list(repeats(part.texts))
    n_repeated, labels = len(repeated), part.labels
    clashes = [(part.rows[a], part.rows[b]) for a, b in repeated if labels[a] != labels[b]]
    notes = []
    if n_repeated:
        notes.append(f"{n_repeated} rows of {part.source} repeat the text of a row before them")
    if clashes:
        pair = "rows {} and {}".format(*clashes[0])
        notes.append(f"{len(clashes)} of them with another label, first {pair}")
    return notes
