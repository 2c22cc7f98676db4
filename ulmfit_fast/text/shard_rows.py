"""Read the rows of the files of a corpus, one file after the other, as its first file is read."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from ..errors import InputError
from .csv_check import CsvShape, check_csv, stream_csv
from .json_rows import stream_json
from .lines import stream_lines
from .parquet import parquet_columns, stream_parquet
from .shards import Shards
from .sources import TableFile, shown
from .table import RawTable, names_of_csv

# Rows that the columns are chosen by: so many, or fewer where they are long.
_SAMPLE_ROWS = 2_000
_SAMPLE_CHARS = 8_000_000

Rows = Iterator[tuple[int, Mapping[str, str | None]]]


class ShardRows:
    """Rows of files of one format.

    Delimiter and header of the first csv file are those of all of them.

    Args:
        shards: the files.
        encoding: as for read_table.
        header: as for read_table.
    """

    def __init__(self, shards: Shards, encoding: str | None, header: bool | None) -> None:
        self.shards = shards
        self._encoding = encoding
        self._header = header
        self._left_out: dict[str, str] = {}
        self._head = shards.files[0]
        self._first: CsvShape | None = None
        self._shapes: dict[Path, CsvShape] = {}

    @property
    def format(self) -> str:
        """Of all files."""
        return self.shards.files[0].format

    def head(self) -> RawTable:
        """Return the first rows of the first file that has a text, or of the last.

        Raises:
            InputError: a file cannot be used.
        """
        for file in self.shards.files:
            sample = list(_first(self._sample_of(file)))
            found = list(chain.from_iterable(values.values() for _, values in sample))
            self._head = file
            if any(value and not value.isspace() for value in found):
                break
        names = list(dict.fromkeys(chain.from_iterable(values for _, values in sample)))
        if not names and self.format == "parquet":
            names = parquet_columns(file)[0]
        columns = {name: [values.get(name) for _, values in sample] for name in names}
        has_names, is_guessed = self.format != "txt", False
        if self._first is not None:
            has_names, is_guessed = names_of_csv(list(self._first.names), self._header)
        return RawTable(file.name, columns, [n for n, _ in sample], has_names, is_guessed)

    def left_out(self) -> str:
        """Name the columns that cannot be text, with their types, for a message; may be empty."""
        other = self._left_out.items()
        return ", ".join(f"{shown(name)} ({shown(kind, 60)})" for name, kind in other)

    def _sample_of(self, file: TableFile) -> Rows:
        if file.format == "parquet":
            names, self._left_out = parquet_columns(file)
            return stream_parquet(file, names, only_texts=False)
        if file.format in ("json", "jsonl") and self.shards.is_sharded:
            return stream_json(file, self._encoding, texts=(), left_out=self._left_out)
        return self._all_of(file)

    def _all_of(self, file: TableFile, names: Sequence[str] | None = None) -> Rows:
        """Yield the rows of a file that is not parquet; names: of the texts, None for all keys."""
        if file.format == "txt":
            lines = stream_lines(file, self._encoding)
            if lines is None:
                raise InputError(
                    f"{file.name}: has labelled lines (__label__), which are read from a single "
                    "file only: name that file, or take the labels out"
                )
            return ((number, {"text": text}) for number, text in lines)
        if file.format in ("csv", "tsv"):
            return stream_csv(file, self._shape_of(file))
        return stream_json(file, self._encoding, texts=names)

    def _shape_of(self, file: TableFile) -> CsvShape:
        """Return the shape of a csv file, which is read strictly the first time."""
        if file.path not in self._shapes:
            first = self._first
            header = self._header if first is None else first.header
            delimiter = None if first is None else first.delimiter
            shape = check_csv(file, self._encoding, header, delimiter=delimiter)
            # Lines are for those who read all rows at once.
            self._shapes[file.path] = replace(shape, lines=array("q"))
            self._first = self._first or self._shapes[file.path]
        return self._shapes[file.path]

    def of_columns(self, names: Sequence[str]) -> Iterator[tuple[TableFile, Rows]]:
        """Yield each file and its rows, with these columns at least.

        Raises:
            InputError: a file has changed, cannot be used, or lacks a column.
        """
        for file in self.shards.unchanged():
            if file.format == "parquet":
                yield file, stream_parquet(file, names)
            elif self.shards.is_sharded:
                yield file, self._having(file, names)
            else:
                yield file, self._all_of(file)

    def _having(self, file: TableFile, names: Sequence[str]) -> Rows:
        """Yield the rows of a file that must have the columns in one row at least."""
        missing, found = set(names), set[str]()
        if file.format in ("csv", "tsv"):
            found |= set(self._shape_of(file).names)
            missing -= found
            if missing:
                raise self._lacks(file, missing, found)
        for number, values in self._all_of(file, names):
            if missing:
                found |= values.keys()
                missing -= found
            yield number, values
        if missing:
            raise self._lacks(file, missing, found)

    def _lacks(self, file: TableFile, missing: set[str], found: set[str]) -> InputError:
        names = ", ".join(map(shown, sorted(found)))
        return InputError(
            f'{file.name}: has no column "{shown(min(missing))}" (found: {shown(names, 120)}), '
            f"which {self._head.name} has: name another with --text-column, or give "
            "only files that have it"
        )


def _first(rows: Rows) -> Rows:
    """Yield the first rows."""
    n_chars = 0
    for number, values in islice(rows, _SAMPLE_ROWS):
        yield number, values
        n_chars += sum(len(value or "") for value in values.values())
        if n_chars >= _SAMPLE_CHARS:
            return
