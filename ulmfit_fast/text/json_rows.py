"""Read json and jsonl tables.

Not through `datasets`: its JSON reader makes timestamps of texts that look like dates, and its
errors do not say on which line they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..errors import InputError
from .lines import Columns
from .sources import TableFile, checked_lines, encoding_of, open_lines, shown


def read_json(file: TableFile, encoding: str | None) -> tuple[Columns, list[int]]:
    """Read a list of objects, or one object a line; also of a .json file with one object a line.

    Returns:
        columns: key to values as text, None where an object lacks the key; and the line (jsonl) or
            the number in the list (json) of each object, from 1.

    Raises:
        InputError: not JSON, not objects, or a value is a list or an object.
    """
    columns: Columns = {}
    rows: list[int] = []
    with open_lines(file, encoding_of(file, encoding)) as stream:
        for number, unit, value in _objects(file, checked_lines(file, stream)):
            if not isinstance(value, dict):
                raise InputError(
                    f"{file.name}: {unit} {number}: is {_kind(value)}, not an object: write "
                    '{"text": ..., "label": ...}'
                )
            for key, entry in value.items():
                if isinstance(entry, (dict, list)):
                    raise InputError(
                        f'{file.name}: {unit} {number}: key "{shown(key)}" holds {_kind(entry)}: '
                        "give it one text or number, or leave the key out"
                    )
                columns.setdefault(key, [None] * len(rows)).append(_as_text(entry))
            rows.append(number)
            for values in columns.values():
                if len(values) < len(rows):
                    values.append(None)
    if not rows:
        raise InputError(f"{file.name}: has no objects: give at least one text")
    return columns, rows


def _objects(file: TableFile, lines: Iterator[str]) -> Iterator[tuple[int, str, Any]]:
    """Yield (number, "line" or "item", value) of each row."""
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        if file.format == "json" and not _is_one_object(line):
            content = line + "".join(lines)
            try:
                items = json.loads(content)
            except json.JSONDecodeError as error:
                raise _not_json(file, number + error.lineno - 1, error) from error
            if not isinstance(items, list):
                raise InputError(
                    f"{file.name}: line {number}: is {_kind(items)}, not a list: write a list of "
                    'objects, [{"text": ..., "label": ...}, ...]'
                )
            for item, value in enumerate(items, 1):
                yield item, "item", value
            return
        try:
            yield number, "line", json.loads(line)
        except json.JSONDecodeError as error:
            raise _not_json(file, number, error) from error


def _is_one_object(line: str) -> bool:
    """Tell a first line that is an object by itself, as in a jsonl file."""
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _not_json(file: TableFile, line: int, error: json.JSONDecodeError) -> InputError:
    return InputError(
        f"{file.name}: line {line}: column {error.colno}: not JSON ({error.msg}): correct this line"
    )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _as_text(value: Any) -> str | None:
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, str):
        return value
    return json.dumps(value)
