"""Files of lines: labelled lines (TREC, fastText), one text a line, WikiExtractor's documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from ..errors import InputError
from .sources import TableFile, checked_lines, encoding_of, open_lines, shown

_TREC = re.compile(r"([^\s:]+):(\S+)\s+(.*\S)")
_FASTTEXT = re.compile(r"__label__(\S+)\s*(.*)")
_TRAILING_LABEL = re.compile(r"(?:^|\s)__label__\S+")

Columns = dict[str, list[str | None]]


def read_lines(file: TableFile, encoding: str | None) -> tuple[Columns, list[int]]:
    """Read a .txt or .label file.

    A .label file has a label on every line: `LABEL:sub text` (TREC; columns label, fine_label,
    text) or `__label__x text` (fastText; columns label, text). A .txt file is fastText's if it
    starts with `__label__`, WikiExtractor's if it starts with `<doc` (a text is a document), and
    otherwise one text a line. Empty lines separate.

    Returns:
        columns: name to values, and the line each begins on (from 1).

    Raises:
        InputError: a line of a labelled file has no label or two, or a document does not end.
    """
    lines = _lines_of(file, encoding)
    first = next(lines)
    style = _style_of_labels(file, first[1])
    if style is not None:
        return _read_labelled(file, chain([first], lines), style)
    numbers, texts = zip(*_texts_of(file, first, lines), strict=True)
    return {"text": list(texts)}, list(numbers)


def stream_lines(file: TableFile, encoding: str | None) -> Iterator[tuple[int, str]] | None:
    """Return an iterator over the texts of a .txt file and their lines; None if it has labels.

    Texts and errors are those of read_lines; the errors come when the iterator gets there.
    """
    lines = _lines_of(file, encoding)
    first = next(lines)
    return None if _style_of_labels(file, first[1]) else _texts_of(file, first, lines)


def _lines_of(file: TableFile, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Yield number and content of the lines that are not empty; there is one."""
    is_empty = True
    with open_lines(file, encoding_of(file, encoding)) as stream:
        for number, line in enumerate(checked_lines(file, stream), 1):
            if not line.isspace():
                is_empty = False
                yield number, line.rstrip("\n")
    if is_empty:
        raise InputError(f"{file.name}: has only empty lines: give at least one text")


def _style_of_labels(file: TableFile, first_line: str) -> str | None:
    if first_line.startswith("__label__"):
        return "fastText"
    return "TREC" if file.format == "label" else None


def _texts_of(
    file: TableFile, first: tuple[int, str], lines: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, str]]:
    """Yield line and text of each document."""
    whole = chain([first], lines)
    return _documents(file, whole) if first[1].startswith("<doc ") else whole


def _read_labelled(
    file: TableFile, lines: Iterator[tuple[int, str]], style: str
) -> tuple[Columns, list[int]]:
    labels: list[str | None] = []
    fine: list[str | None] = []
    texts: list[str | None] = []
    numbers = []
    for number, line in lines:
        if style == "fastText":
            match = _FASTTEXT.fullmatch(line.strip())
            wanted = "__label__x text"
        else:
            match = _TREC.fullmatch(line.strip())
            wanted = "LABEL:sub text or __label__x text"
        if match is None:
            raise InputError(
                f'{file.name}: line {number}: no label at "{shown(line.strip(), 30)}": write '
                f"every line as {wanted}, or name the file .txt to read texts without labels"
            )
        if style == "fastText" and _TRAILING_LABEL.search(match[2]):
            raise InputError(
                f"{file.name}: line {number}: two labels on one line: keep one label a line"
            )
        labels.append(match[1])
        fine.append(f"{match[1]}:{match[2]}")
        texts.append(match[match.re.groups])
        numbers.append(number)
    if style == "fastText":
        return {"label": labels, "text": texts}, numbers
    return {"label": labels, "fine_label": fine, "text": texts}, numbers


def _documents(file: TableFile, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    begin = 0
    document: list[str] | None = None
    for number, line in lines:
        if line.startswith("<doc "):
            if document is not None:
                break
            document, begin = [], number
        elif line.startswith("</doc>") and document is not None:
            yield begin, "\n".join(document)
            document = None
        elif document is None:
            raise InputError(
                f"{file.name}: line {number}: text outside of <doc> ... </doc>: move it into one"
            )
        else:
            document.append(line)
    if document is not None:
        raise InputError(
            f"{file.name}: line {begin}: <doc> without </doc>: add it, or get the file again"
        )
