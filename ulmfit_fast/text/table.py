"""Read a table of texts, with labels or without, from any source, and say what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .columns import Choice, Values, choose_columns, is_numbers
from .csv_check import has_known_name
from .lines import read_lines
from .rules import mark_fields
from .sources import find_file, shown

if TYPE_CHECKING:
    from datasets import Dataset

# What pandas writes for a missing value. "NA", "None" and "null" are kept: they are words, too.
_NAN = ("nan", "NaN")
# A name of a column with one of these in it may be the names of several.
_SEPARATORS = set(",;|\t^~:")
# So many numbers below a name that is none make it the name of a column.
_FEWEST_NUMBERS = 5


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out.

    Attributes:
        row: its line or record number, from 1.
        column: its name.
        reason: why it was left out.
        file: that it stands in, where the source is several; else empty.
    """

    row: int
    column: str
    reason: str
    file: str = ""


@dataclass(frozen=True)
class TextTable:
    """Texts of a table, in its order.

    Attributes:
        texts: never empty; several text columns are joined as `xxfld 1 a xxfld 2 b`.
        labels: of each text; None where the row has none (for the language model only).
        rows: line (csv, txt, jsonl) or record number of each text, from 1.
        skipped: rows without text.
        text_columns: the columns that were read.
        label_column: the column that was read, or None.
        source: file or name, for messages.
        guessed_header: the first record of a csv file if it was taken as the header by default,
            without a well-known name in it; else empty.
        has_names: whether the names of the columns are the source's own (`RawTable`).
    """

    texts: list[str]
    labels: list[str | None]
    rows: list[int]
    skipped: list[SkippedRow]
    text_columns: tuple[str, ...]
    label_column: str | None
    source: str
    guessed_header: tuple[str, ...] = ()
    has_names: bool = True


@dataclass(frozen=True)
class RawTable:
    """The columns of a source, before texts and labels are chosen.

    Attributes:
        source: file or name, for messages.
        columns: name to values; "0", "1", ... of a csv file without header.
        rows: line or record number of each row, from 1.
        has_names: whether the names are the source's own; those of a file of lines or of a csv file
            without header are not.
        header_is_guessed: whether the first record of a csv file was taken as its header without a
            well-known name in it and without being told.
    """

    source: str
    columns: Mapping[str, Values]
    rows: Sequence[int]
    has_names: bool = True
    header_is_guessed: bool = False

    def choose(
        self,
        *,
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        labelled: bool | None = None,
    ) -> TextTable:
        """Choose the columns of text and label and drop the rows without text; see read_table."""
        choice = self.choice(text_columns, label_column, labelled=labelled)
        fields = [self.columns[name] for name in choice.text]
        no_labels: Values = [None] * len(self.rows)
        labels = no_labels if choice.label is None else self.columns[choice.label]
        texts, kept, rows, skipped = _without_empty(fields, labels, self.rows, choice.text)
        if not texts:
            raise InputError(
                f"{self.source}: row {skipped[0].row if skipped else 1}: column "
                f'"{shown(choice.text[0])}" has no text in any row: choose another with '
                "--text-column"
            )
        if labelled and not any(label is not None for label in kept):
            raise InputError(
                f'{self.source}: column "{shown(str(choice.label))}" is empty in every row with '
                "text: choose another with --label-column"
            )
        # Who names the label's column knows that there is a header.
        is_guessed = self.header_is_guessed and label_column is None
        return TextTable(
            texts, kept, rows, skipped, choice.text, choice.label, self.source,
            tuple(self.columns) if is_guessed else (), self.has_names,
        )  # fmt: skip

    def choice(
        self, text_columns: Sequence[str] | None, label_column: str | None, *, labelled: bool | None
    ) -> Choice:
        """Choose the columns of text and label; see read_table."""
        try:
            return choose_columns(
                self.columns, self.source, text_columns=text_columns, label_column=label_column,
                labelled=labelled,
            )  # fmt: skip
        except InputError as error:
            found = sorted(_SEPARATORS & set("".join(self.columns)))
            if len(self.columns) == 1 and found:
                raise InputError(
                    f'{error}; there is one column alone: if "{found[0]}" parts more of them, '
                    "name the file .csv, or part them by commas or tabs"
                ) from error
            if not self.header_is_guessed:
                raise
            raise InputError(
                f"{error}; the first row is taken for column names: --no-header if it is a text"
            ) from error


def read_table(
    source: str | Path | Dataset,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    labelled: bool | None = None,
) -> TextTable:
    """Read texts and labels.

    Args:
        source: a csv, tsv, json, jsonl, parquet, txt or label file, plain or .gz or .xz; or a
            `datasets.Dataset`; or "hf:owner/name[:split]" (split train) of the Hugging Face Hub.
        text_columns: columns of the text; None chooses (`columns.choose_columns`).
        label_column: column of the label; None chooses.
        encoding: of a text file; None takes the byte order mark's, else UTF-8.
        header: whether a csv file begins with column names; None decides (`csv_check.check_csv`).
        labelled: True: a label column is required; False: labels are ignored; None: used if found.

    Raises:
        InputError: one line: what is wrong, in which file, row and column, and what to do.
    """
    return load_table(source, encoding=encoding, header=header).choose(
        text_columns=text_columns, label_column=label_column, labelled=labelled
    )


def load_table(
    source: str | Path | Dataset, *, encoding: str | None = None, header: bool | None = None
) -> RawTable:
    """Read all columns of a source; arguments and errors as of read_table."""
    from .loaders import load_dataset_columns, load_file_columns, load_hub_columns

    if isinstance(source, str) and source.startswith("hf:"):
        return RawTable(source, *load_hub_columns(source))
    if not isinstance(source, (str, Path)):
        name = "the data set"
        return RawTable(name, *load_dataset_columns(source, name))
    file = find_file(Path(source))
    if file.format in ("txt", "label"):
        return RawTable(file.name, *read_lines(file, encoding), has_names=False)
    columns, rows = load_file_columns(file, encoding, header)
    if file.format not in ("csv", "tsv"):
        return RawTable(file.name, columns, rows)
    has_names, is_guessed = names_of_csv(list(columns), header)
    # A header has no numbers in it: numbers below a name leave nothing to guess.
    is_guessed &= len(rows) < _FEWEST_NUMBERS or not any(map(is_numbers, columns.values()))
    return RawTable(file.name, columns, rows, has_names, is_guessed)


def names_of_csv(names: list[str], header: bool | None) -> tuple[bool, bool]:
    """Tell whether the names of columns are a csv file's own, and whether that was guessed."""
    are_own = names != [str(i) for i in range(len(names))]
    return are_own, are_own and header is None and not has_known_name(names)


def _without_empty(
    fields: Sequence[Values],
    labels: Values,
    rows: Iterable[int],
    names: tuple[str, ...],
) -> tuple[list[str], list[str | None], list[int], list[SkippedRow]]:
    """Drop rows without text and list them."""
    texts: list[str] = []
    kept_labels: list[str | None] = []
    kept_rows: list[int] = []
    skipped: list[SkippedRow] = []
    for row, label, *values in zip(rows, labels, *fields, strict=True):
        text, why_missing = text_of(values)
        if why_missing is not None:
            skipped.append(SkippedRow(row, "+".join(names), why_missing))
            continue
        texts.append(text)
        kept_labels.append(None if _why_missing(label) or label is None else label.strip())
        kept_rows.append(row)
    return texts, kept_labels, kept_rows, skipped


def text_of(fields: Sequence[str | None]) -> tuple[str, str | None]:
    """Return the text of a row's fields and None, or "" and why there is no text."""
    reasons = [_why_missing(field) for field in fields]
    if all(reasons):
        return "", reasons[0]
    present = [str(f) if not r else "" for f, r in zip(fields, reasons, strict=True)]
    return mark_fields(present), None


def _why_missing(value: str | None) -> str | None:
    if value is None:
        return "missing value"
    if value in _NAN:
        return "NaN"
    if value == "":
        return "empty text"
    return "white space only" if value.isspace() else None
