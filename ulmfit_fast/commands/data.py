"""From the files of a run to its training, validation and test parts, checked on the way."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ulmfit_fast.commands.terminal import listing, shorten
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import SkippedRow, TextTable, read_table

VALID_SHARE = 0.1


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


@dataclass(frozen=True)
class Files:
    """What the user named.

    Attributes:
        train: table with texts and labels.
        valid: the same for validation; None holds a part of train out.
        test: the same for the final test.
        unlabelled: more texts for the language model.
        general: text of any kind to pretrain on.
        text_columns: columns of the text; empty finds them.
        label_column: column of the label; None finds it.
        encoding: of all files; None detects UTF-8 and UTF-16.
    """

    train: str
    valid: str | None = None
    test: str | None = None
    unlabelled: tuple[str, ...] = ()
    general: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class TrainingData:
    """Everything a run reads, checked.

    Attributes:
        table: the training table as read, for what was detected.
        train: what the classifier learns.
        valid: what the best epoch is chosen on.
        test: None where no test file was given.
        is_held_out: whether valid is a part of the training file.
        unlabelled: texts for the language model alone, without those of valid and test.
        general: texts to pretrain on, likewise; empty without a file.
        skipped: rows that could not be used, with their source.
        notes: what the user should know about the data.
    """

    table: TextTable
    train: Part
    valid: Part
    test: Part | None
    is_held_out: bool
    unlabelled: list[str]
    general: list[str]
    skipped: list[tuple[str, SkippedRow]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> dict[str, int]:
        """Class names in order, and how many training and held-out rows each has."""
        labels = self.train.labels + (self.valid.labels if self.is_held_out else [])
        return dict(sorted(Counter(labels).items()))


def read_training_data(files: Files, seed: int) -> TrainingData:
    """Read and check all files of a run.

    Raises:
        InputError: a file cannot be used, there is one class only, or a label of the validation or
            test file is unknown in training.
    """
    columns = files.text_columns or None
    table = read_table(
        files.train, text_columns=columns, label_column=files.label_column,
        encoding=files.encoding, labelled=True,
    )  # fmt: skip
    skipped = [(table.source, row) for row in table.skipped]
    labelled = _labelled_part(table)
    _check_classes(labelled)
    others: dict[str, Part | None] = {}
    for option, path in (("--valid", files.valid), ("--test", files.test)):
        others[option] = None
        if path is not None:
            other = _read_like(table, path, files)
            skipped += [(other.source, row) for row in other.skipped]
            skipped += _rows_without_label(other)
            others[option] = _labelled_part(other)
            check_labels(others[option] or labelled, set(labelled.labels), "the training file")
    test = others["--test"]
    train, valid = labelled, others["--valid"]
    if valid is None:
        train, valid = hold_out(labelled, VALID_SHARE, seed)
    held_out = {*valid.texts, *(test.texts if test else ())}
    notes = _notes(labelled, train, valid, test)
    extra = [text for text, label in zip(table.texts, table.labels, strict=True) if label is None]
    for path in files.unlabelled:
        extra += _texts_alone(path, files, skipped)
    general = _texts_alone(files.general, files, skipped) if files.general else []
    unlabelled = _without(extra, held_out, "unlabelled", notes)
    return TrainingData(
        table, train, valid, test, files.valid is None, unlabelled,
        _without(general, held_out, "general", notes), skipped, notes,
    )  # fmt: skip


def _read_like(table: TextTable, path: str, files: Files) -> TextTable:
    """Read a validation or test file: the training file's columns, or its own if it has no such.

    Files of one data set do not always agree: AG News as published has a header in one of them.
    """
    columns, label = table.text_columns, table.label_column
    try:
        return read_table(
            path, text_columns=columns, label_column=label, encoding=files.encoding, labelled=True
        )
    except InputError:
        if files.text_columns or files.label_column:
            raise
        found = read_table(path, encoding=files.encoding, labelled=True)
        if len(found.text_columns) != len(columns):
            raise
        return found


def _labelled_part(table: TextTable) -> Part:
    rows = [
        (text, label, row)
        for text, label, row in zip(table.texts, table.labels, table.rows, strict=True)
        if label is not None
    ]
    return Part([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], table.source)


def _rows_without_label(table: TextTable) -> list[tuple[str, SkippedRow]]:
    column = table.label_column or ""
    return [
        (table.source, SkippedRow(row, column, "no label"))
        for row, label in zip(table.rows, table.labels, strict=True)
        if label is None
    ]


def _check_classes(part: Part) -> None:
    classes = set(part.labels)
    if len(classes) < 2:
        raise InputError(
            f"{part.source}: all {len(part)} labelled rows have the one label "
            f"'{shorten(part.labels[0])}'; a classifier needs at least two classes (is this the "
            "right column? see --label-column)"
        )
    if len(classes) == len(part) > 2:
        raise InputError(
            f"{part.source}: each of the {len(part)} labelled rows has a label of its own, such as "
            f"'{shorten(part.labels[0])}'; name the column of classes with --label-column"
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
        InputError: no class has two different texts.
    """
    by_class: dict[str, dict[str, list[int]]] = defaultdict(dict)
    label_of: dict[str, str] = {}
    for index, (text, label) in enumerate(zip(part.texts, part.labels, strict=True)):
        label_of.setdefault(text, label)
        by_class[label_of[text]].setdefault(text, []).append(index)
    shuffle = random.Random(seed).shuffle
    held_out: list[int] = []
    for label in sorted(by_class):
        groups = list(by_class[label].values())
        shuffle(groups)
        wanted = round(share * sum(map(len, groups)))
        taken: list[int] = []
        while len(taken) < wanted and len(groups) > 1:
            taken += groups.pop()
        held_out += taken
    if not held_out:
        largest = max(sorted(by_class), key=lambda label: len(by_class[label]))
        if len(by_class[largest]) < 2:
            raise InputError(
                f"{part.source}: too few different texts ({len(label_of)}) to hold some out for "
                "validation; give more rows, or a validation file with --valid"
            )
        held_out = list(by_class[largest].values())[-1]
    chosen = set(held_out)
    return part.take(i for i in range(len(part)) if i not in chosen), part.take(sorted(chosen))


def _notes(labelled: Part, train: Part, valid: Part, test: Part | None) -> list[str]:
    """Say what is odd about the data and may change what the results mean."""
    notes = []
    first_row = dict(zip(reversed(labelled.labels), reversed(labelled.rows), strict=True))
    for label, count in sorted(Counter(labelled.labels).items()):
        if count == 1:
            notes.append(
                f"class '{shorten(label)}' has a single row ({labelled.source}, row "
                f"{first_row[label]}): it cannot be learnt or measured"
            )
    notes += _repeats(labelled)
    pairs = [("validation", valid, train), ("test", test, train), ("test", test, valid)]
    for name, part, other in pairs:
        both = _rows_in(part, set(other.texts)) if part is not None else []
        if part is not None and both:
            where = "training" if other is train else "validation"
            notes.append(
                f"{len(both)} of {len(part)} {name} texts stand in the {where} part too (rows "
                f"{listing(both)} of {part.source}): the {name} result is that much too good"
            )
    return notes


def _repeats(part: Part) -> list[str]:
    """Say how many texts are repeated, and how many have two labels."""
    seen: dict[str, tuple[str, int]] = {}
    n_repeated = 0
    clashes: list[tuple[int, int]] = []
    for text, label, row in zip(part.texts, part.labels, part.rows, strict=True):
        first_label, first = seen.setdefault(text, (label, row))
        if first != row:
            n_repeated += 1
            if first_label != label:
                clashes.append((first, row))
    notes = []
    if n_repeated:
        notes.append(f"{n_repeated} rows of {part.source} repeat the text of a row before them")
    if clashes:
        pair = "rows {} and {}".format(*clashes[0])
        notes.append(f"{len(clashes)} of them with another label, first {pair}")
    return notes


def _rows_in(part: Part, texts: set[str]) -> list[int]:
    return [row for text, row in zip(part.texts, part.rows, strict=True) if text in texts]


def _texts_alone(path: str, files: Files, skipped: list[tuple[str, SkippedRow]]) -> list[str]:
    """Read a file's texts, whatever labels it has."""
    table = read_table(
        path, text_columns=files.text_columns or None, encoding=files.encoding, labelled=False
    )
    skipped += [(table.source, row) for row in table.skipped]
    return table.texts


def _without(texts: Sequence[str], held_out: set[str], name: str, notes: list[str]) -> list[str]:
    """Drop texts that are held out: a language model may not see them either."""
    kept = [text for text in texts if text not in held_out]
    if len(kept) < len(texts):
        notes.append(
            f"{len(texts) - len(kept)} {name} texts were left out because validation or test has "
            "them too"
        )
    return kept
