"""From the files of a run to its training, validation and test parts, checked on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ulmfit_fast.commands.parts import (
    Part,
    check_classes,
    check_labels,
    hold_out,
    labelled_part,
    notes_on,
    rows_without_label,
)
from ulmfit_fast.commands.terminal import listing, shorten
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import SkippedRow, TextStream, TextTable, read_table, stream_texts
from ulmfit_fast.text.shards import is_sharded
from ulmfit_fast.text.stream import OpenedTexts, open_texts
from ulmfit_fast.text.table import RawTable, load_table

VALID_SHARE = 0.1


@dataclass(frozen=True)
class Files:
    """What the user named.

    Attributes:
        train: table with texts and labels, or what pretrain reads: text of any kind, also a folder
            or pattern of files; empty for none, which only `pretrain --from` can do.
        valid: the same for validation; None holds a part of train out.
        test: the same for the final test.
        unlabelled: more texts for the language model; also folders and patterns of files.
        general: text of any kind to pretrain on, likewise.
        text_columns: columns of the text; empty finds them.
        label_column: column of the label; None finds it.
        encoding: of all files; None detects UTF-8 and UTF-16.
        header: whether csv files begin with column names; None decides for each.
    """

    train: str
    valid: str | None = None
    test: str | None = None
    unlabelled: tuple[str, ...] = ()
    general: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    encoding: str | None = None
    header: bool | None = None


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
        general: texts to pretrain on, likewise, a stream if they are many; empty without a file.
        skipped: rows that could not be used, with their source.
        notes: what the user should know about the data.
        remarks: how files were read where that is not as the user may think.
    """

    table: TextTable
    train: Part
    valid: Part
    test: Part | None
    is_held_out: bool
    unlabelled: list[str]
    general: list[str] | TextStream
    skipped: list[tuple[str, SkippedRow]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

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
    reader = FileReader(files)
    labelled = labelled_part(reader.table)
    check_classes(labelled)
    valid, test = (
        None if path is None else reader.labelled_like_training(path)
        for path in (files.valid, files.test)
    )
    for part in (valid, test):
        if part is not None:
            check_labels(part, set(labelled.labels), "the training file")
    train = labelled
    if valid is None:
        train, valid = hold_out(labelled, VALID_SHARE, seed)
    held_out = {*valid.texts, *(test.texts if test is not None else ())}
    notes = notes_on(labelled, train, valid, test)
    pairs = zip(reader.table.texts, reader.table.labels, strict=True)
    extra = [text for text, label in pairs if label is None]
    for path in files.unlabelled:
        extra += reader.unlabelled_texts(path)
    general = reader.general_texts(files.general) if files.general is not None else []
    unlabelled = _without(extra, held_out, "unlabelled", notes)
    if isinstance(general, TextStream):
        general = _stream_without(general, held_out, notes)
    else:
        general = _without(general, held_out, "general", notes)
    return TrainingData(
        reader.table, train, valid, test, files.valid is None, unlabelled, general,
        reader.skipped, notes, reader.remarks,
    )  # fmt: skip


def read_general(files: Files) -> TextTable | TextStream:
    """Read the texts that pretrain trains on: a stream if they are many or in several files."""
    columns = files.text_columns or None
    stream = stream_texts(
        files.train, text_columns=columns, encoding=files.encoding, header=files.header
    )
    if stream is not None:
        return stream
    return read_table(
        files.train, text_columns=columns, encoding=files.encoding, header=files.header,
        labelled=False,
    )  # fmt: skip


def skipped_of(table: TextTable | TextStream) -> list[tuple[str, SkippedRow]]:
    """Return the rows without text and the file that each stands in; of a stream, once read."""
    return [(row.file or table.source, row) for row in table.skipped]


def reading_remarks(table: TextTable | TextStream) -> list[str]:
    """Say how texts were read where that is not as the user may think; of a stream, once read."""
    remarks = []
    if isinstance(table, TextStream) and table.n_files > 1:
        columns = listing([repr(column) for column in table.text_columns])
        remarks.append(f"{table.source}: {table.n_files:,} files, text from {columns}")
    if table.guessed_header:
        row = listing([repr(shorten(name, 30)) for name in table.guessed_header])
        remarks.append(
            f"{table.source}: the first row ({row}) is taken for column names, as nothing in it "
            "says otherwise; if it is a text, give --no-header"
        )
    if isinstance(table, TextStream) and table.n_skipped > len(table.skipped):
        listed = f"the first {len(table.skipped):,} are listed"
        remarks.append(f"{table.source}: {table.n_skipped:,} rows have no text; {listed}")
    return remarks


class FileReader:
    """Reads the files of a run, the training file first, and keeps what is to be said about them.

    Attributes:
        table: the training file.
        skipped: rows of all files that could not be used, with their source.
        remarks: columns that differ from the training file's, headers that were guessed.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.skipped: list[tuple[str, SkippedRow]] = []
        self.remarks: list[str] = []
        raw = self._load(files.train)
        self.training_has_names = raw.has_names
        self.table = raw.choose(
            text_columns=files.text_columns or None, label_column=files.label_column, labelled=True
        )
        self._keep(self.table)

    def _load(self, path: str) -> RawTable:
        return load_table(path, encoding=self.files.encoding, header=self.files.header)

    def _keep(self, table: TextTable | TextStream) -> None:
        self.skipped += skipped_of(table)
        self.remarks += reading_remarks(table)

    def labelled_like_training(self, path: str) -> Part:
        """Read a file's columns as like_training does, and return the rows with a label."""
        table = self.like_training(path, labelled=True)
        self.skipped += rows_without_label(table)
        return labelled_part(table)

    def like_training(self, path: str, *, labelled: bool) -> TextTable:
        """Read a file's columns of the training file's names, or find them if it has no names.

        Files of one data set do not always agree: AG News as published has a header in one of them.

        Raises:
            InputError: a file with names of its own lacks one that the training file has.
        """
        raw, texts, label = self._load(path), self.table.text_columns, self.table.label_column
        wanted = [*texts, *([label] if labelled and label is not None else [])]
        missing = [name for name in wanted if name not in raw.columns]
        if not missing:
            table = raw.choose(text_columns=texts, label_column=label, labelled=labelled)
        elif self._must_have_names(raw):
            raise _missing_columns(raw, missing, self.table.source)
        else:
            table = raw.choose(labelled=labelled)
            if labelled and len(table.text_columns) != len(texts):
                raise _missing_columns(raw, missing, self.table.source)
        self._keep(table)
        self._remark_columns(table, labelled=labelled)
        return table

    def _must_have_names(self, raw: RawTable) -> bool:
        """Tell whether columns may be found by their names alone."""
        is_asked_for = bool(self.files.text_columns or self.files.label_column)
        is_of_lines = not raw.has_names and "text" in raw.columns
        return (raw.has_names and self.training_has_names) or (is_asked_for and not is_of_lines)

    def unlabelled_texts(self, path: str) -> list[str]:
        """Read the texts of a file, a folder or a pattern, from columns as like_training does."""
        opened = self._open(path) if is_sharded(path) else None
        if opened is None:
            return self.like_training(path, labelled=False).texts
        missing = [name for name in self.table.text_columns if name not in opened.head.columns]
        if missing and self._must_have_names(opened.head):
            raise _missing_columns(opened.head, missing, self.table.source)
        stream = opened.choose(None if missing else self.table.text_columns)
        texts = list(stream)
        self._keep(stream)
        return texts

    def general_texts(self, path: str) -> list[str] | TextStream:
        """Read texts of any kind; the columns asked for count if the files have names."""
        opened = self._open(path)
        raw = self._load(path) if opened is None else opened.head
        columns = (self.files.text_columns if raw.has_names else ()) or None
        if opened is None:
            table = raw.choose(text_columns=columns, labelled=False)
            self._keep(table)
            self._remark_columns(table, labelled=False)
            return table.texts
        stream = opened.choose(columns)
        texts = stream if stream.is_large else list(stream)
        if len(texts):  # a pass, after which the stream knows its rows without text
            self._keep(stream)
            self._remark_columns(stream, labelled=False)
        return texts

    def _open(self, path: str) -> OpenedTexts | None:
        return open_texts(path, encoding=self.files.encoding, header=self.files.header)

    def _remark_columns(self, table: TextTable | TextStream, *, labelled: bool) -> None:
        label_column = table.label_column if isinstance(table, TextTable) else None
        same_label = not labelled or label_column == self.table.label_column
        if table.text_columns == self.table.text_columns and same_label:
            return
        label = f", label from {label_column!r}" if labelled else ""
        self.remarks.append(
            f"{table.source}: text from {listing([repr(c) for c in table.text_columns])}{label}"
        )


def _missing_columns(raw: RawTable, missing: Sequence[str], training: str) -> InputError:
    return InputError(
        f"{raw.source}: no column {quoted(missing)}, which {training} has (found: "
        f"{quoted(list(raw.columns))}); give the columns of both files the same names"
    )


def quoted(names: Sequence[str]) -> str:
    """Return the first names of columns in quotes, for a message."""
    return listing([f'"{shorten(name, 30)}"' for name in names], 12)


def _without(texts: Sequence[str], held_out: set[str], name: str, notes: list[str]) -> list[str]:
    """Drop texts that are held out: a language model may not see them either."""
    kept = [text for text in texts if text not in held_out]
    if len(kept) < len(texts):
        notes.append(_left_out(len(texts) - len(kept), name))
    return kept


def _stream_without(texts: TextStream, held_out: set[str], notes: list[str]) -> TextStream:
    n = sum(text in held_out for text in texts)
    if not n:
        return texts
    notes.append(_left_out(n, "general"))
    return texts.without(held_out)


def _left_out(n: int, name: str) -> str:
    return f"{n} {name} texts were left out because validation or test has them too"
