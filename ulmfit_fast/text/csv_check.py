"""Read the structure of a csv file strictly, before a lenient reader sees it.

Lenient readers change bad files silently: an unclosed quote merges lines into one row, a comma too
many shifts columns. One streaming pass of the csv module in strict mode finds delimiter and header,
counts the fields of every record, and records on which line each begins.
"""

from __future__ import annotations

import csv
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice

from ..errors import InputError
from .columns import KNOWN_NAMES
from .sources import LONGEST_LINE, TableFile, checked_lines, encoding_of, open_lines, shown

_DELIMITERS = ",\t;|"
# Lines that the delimiter is found by, and their characters.
_SAMPLE_LINES, _SAMPLE_CHARS = 100, 1 << 20
# The line that Excel writes and reads to name the delimiter.
_DELIMITER_LINE = re.compile(r'"?sep=([^"\w\r\n])"?[\r\n]*')
_LONGEST_NAME = 40
_MOST_WORDS_OF_A_NAME = 3


@dataclass(frozen=True)
class CsvShape:
    """What the strict pass found.

    Attributes:
        encoding: to decode the file with.
        delimiter: between fields.
        names: of the columns; "0", "1", ... without a header.
        header: whether the first record holds the names.
        n_blank: blank lines before the first record.
        lines: the line on which each record after the header begins, from 1. In a table of one
            column a blank line is a record with an empty field; in others it is none.
        n_chars: characters of each column, to compare with what another reader gets.
    """

    encoding: str
    delimiter: str
    names: tuple[str, ...]
    header: bool
    n_blank: int
    lines: array[int]
    n_chars: tuple[int, ...]


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    """Lift the csv module's limit of 131072 characters a field, which is global, for a while."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def check_csv(
    file: TableFile, encoding: str | None, header: bool | None, *, delimiter: str | None = None
) -> CsvShape:
    """Read a csv or tsv file strictly.

    Args:
        file: format csv (delimiter found among , tab ; |) or tsv.
        encoding: None takes the BOM's, else UTF-8.
        header: None decides: the first record is a header unless a field of it is empty, a number,
            repeated, or longer than 3 words or 40 characters; a well-known name (label, text, ...)
            settles it.
        delimiter: None finds it in a csv file.

    Raises:
        InputError: a byte is not of the encoding, a NUL, a quote is not closed, a record has more
            or fewer fields than the first, column names are empty or repeated, or there is no row.
    """
    encoding = encoding_of(file, encoding)
    with _fields_of_any_size(), open_lines(file, encoding, newline="") as stream:
        lines = checked_lines(file, stream)
        sample = _sample(lines)
        delimiter = _delimiter(file, sample, delimiter)
        records = _records(file, chain(sample, lines), delimiter)
        first_line, first = next((r for r in records if not _is_blank(r[1])), (0, []))
        if not first:
            raise InputError(f"{file.name}: has only empty lines: give at least one text")
        if header is None:
            header = _looks_like_header(first)
        names = _named(file, first_line, first) if header else tuple(map(str, range(len(first))))
        starts, n_chars = array("q"), [0] * len(first)
        for line, fields in chain([] if header else [(first_line, first)], records):
            if len(first) > 1 and _is_blank(fields):
                continue
            fields = fields or [""]
            if len(fields) != len(first):
                raise _ragged(file, (line, fields), (first_line, first), delimiter)
            starts.append(line)
            for i, field in enumerate(fields):
                n_chars[i] += len(field)
    if not starts:
        raise InputError(
            f"{file.name}: line {first_line} is taken as the header and no row follows: add rows, "
            "or give --no-header if it is a row"
        )
    return CsvShape(encoding, delimiter, names, header, first_line - 1, starts, tuple(n_chars))


def stream_csv(file: TableFile, shape: CsvShape) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield line and fields of each record after the header of a file that check_csv accepted."""
    with _fields_of_any_size(), open_lines(file, shape.encoding, newline="") as stream:
        is_header = shape.header
        for line, fields in _records(file, checked_lines(file, stream), shape.delimiter):
            if line <= shape.n_blank or (len(shape.names) > 1 and _is_blank(fields)):
                continue
            if not is_header:
                yield line, dict(zip(shape.names, fields or [""], strict=True))
            is_header = False


def _is_blank(fields: list[str]) -> bool:
    return not fields or (len(fields) == 1 and not fields[0].strip())


def _sample(lines: Iterator[str]) -> list[str]:
    """Take the first lines."""
    sample, n_chars = [], 0
    for line in islice(lines, _SAMPLE_LINES):
        sample.append(line)
        n_chars += len(line)
        if n_chars >= _SAMPLE_CHARS:
            break
    return sample


def _delimiter(file: TableFile, sample: list[str], given: str | None) -> str:
    """Return the delimiter, given or found; a first line that names it becomes a blank one."""
    named = _DELIMITER_LINE.fullmatch(sample[0]) if sample else None
    if named is None:
        return given or ("\t" if file.format == "tsv" else _sniff(sample))
    sample[0] = "\n"
    return named[1]


def _sniff(sample: list[str]) -> str:
    """Take the delimiter that cuts the most of the first lines into the same number of fields.

    Quoted parts are read with each candidate, so a comma inside quotes does not count.
    """
    best, delimiter = (0, 0), ","
    for candidate in _DELIMITERS:
        widths = Counter(
            len(fields) for fields in csv.reader(sample, delimiter=candidate) if fields
        )
        width, n_lines = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        if width > 1 and (n_lines, width) > best:
            best, delimiter = (n_lines, width), candidate
    return delimiter


def _records(
    file: TableFile, lines: Iterator[str], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which it begins, fields) of each record; a blank line has no fields."""
    start, n_chars = 1, 0

    def counted() -> Iterator[str]:
        nonlocal n_chars
        for line in lines:
            n_chars += len(line)
            if n_chars > LONGEST_LINE:
                raise InputError(
                    f"{file.name}: line {start}: the row that begins there has more than "
                    f'{LONGEST_LINE:,} characters: is a quote (") in it never closed?'
                )
            yield line

    reader = csv.reader(counted(), delimiter=delimiter, strict=True)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _bad_quote(file, start, reader.line_num, str(error)) from error
        yield start, fields
        n_chars = 0
        start = reader.line_num + 1


def _bad_quote(file: TableFile, start: int, line: int, error: str) -> InputError:
    if "end of data" in error:
        return InputError(
            f'{file.name}: line {start}: a quote (") opened in this row is never closed: close it, '
            'and write a quote inside a field as ""'
        )
    return InputError(
        f"{file.name}: line {line}: in the row that begins on line {start}, text follows a closing "
        f'quote ("): close an earlier quote, or write a quote inside a field as "" ({error})'
    )


def _ragged(
    file: TableFile, record: tuple[int, list[str]], first: tuple[int, list[str]], delimiter: str
) -> InputError:
    separator = {"\t": "tab"}.get(delimiter, delimiter)
    line, fields = record
    if len(fields) < len(first[1]):
        fix = f'add the missing "{separator}"'
    else:
        fix = f'put quotes (") around a field that has "{separator}" in it'
    return InputError(
        f"{file.name}: line {line}: has {len(fields)} columns, line {first[0]} has "
        f"{len(first[1])}: {fix}"
    )


def has_known_name(fields: Sequence[str]) -> bool:
    """Tell whether one of the fields is a well-known name of a column, such as label or text."""
    return any(field.strip().lower() in KNOWN_NAMES for field in fields)


def _looks_like_header(fields: list[str]) -> bool:
    if has_known_name(fields):
        return True
    names = [field.strip().lower() for field in fields]
    if len(set(names)) < len(names) or not all(names[1:]):
        return False
    return not any(
        _is_number(name) or len(name) > _LONGEST_NAME or len(name.split()) > _MOST_WORDS_OF_A_NAME
        for name in names
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _named(file: TableFile, line: int, fields: list[str]) -> tuple[str, ...]:
    """Return the column names of a header; an empty first one is the index that pandas writes."""
    names = [field.strip().strip("\ufeff") for field in fields]  # a second byte order mark
    if not names[0] and len(names) > 1:
        names[0] = "index" if "index" not in names else "(index)"
    for i, name in enumerate(names):
        if not name:
            raise InputError(
                f"{file.name}: line {line}: column {i + 1} has an empty name: name it, or give "
                "--no-header if this is a row"
            )
        if name in names[:i]:
            raise InputError(
                f"{file.name}: line {line}: columns {names.index(name) + 1} and {i + 1} are both "
                f'named "{shown(name)}": rename one, or give --no-header if this is a row'
            )
    return tuple(names)
