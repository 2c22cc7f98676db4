"""Read json and jsonl tables.

Not through `datasets`: its JSON reader makes timestamps of texts that look like dates, and its
errors do not say on which line they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Container, Iterator
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
    for number, values in stream_json(file, encoding):
        for key, value in values.items():
            columns.setdefault(key, [None] * len(rows)).append(value)
        rows.append(number)
        for column in columns.values():
            if len(column) < len(rows):
                column.append(None)
    if not rows:
        raise InputError(f"{file.name}: has no objects: give at least one text")
    return columns, rows


def stream_json(
    file: TableFile,
    encoding: str | None,
    *,
    texts: Container[str] | None = None,
    left_out: dict[str, str] | None = None,
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield line or number and the keys and values, as text, of each object; see read_json.

    Args:
        file: format json or jsonl.
        encoding: None takes the BOM's, else UTF-8.
        texts: keys whose values must not be lists or objects; those of others are left out then.
            None: all keys.
        left_out: gets the keys that were left out, with what they hold.
    """
    with open_lines(file, encoding_of(file, encoding)) as stream:
        for number, unit, value in _objects(file, checked_lines(file, stream)):
            if not isinstance(value, dict):
                raise InputError(
                    f"{file.name}: {unit} {number}: is {_kind(value)}, not an object: write "
                    '{"text": ..., "label": ...}'
                )
            nested = {k: e for k, e in value.items() if isinstance(e, (dict, list))}
            for key, entry in nested.items():
                if texts is None or key in texts:
                    raise InputError(
                        f'{file.name}: {unit} {number}: key "{shown(key)}" holds {_kind(entry)}: '
                        "give it one text or number, or leave the key out"
                    )
                if left_out is not None:
                    left_out[key] = _kind(entry)
            yield number, {k: _as_text(e) for k, e in value.items() if k not in nested}


def _objects(file: TableFile, lines: Iterator[str]) -> Iterator[tuple[int, str, Any]]:
    """Yield (number, "line" or "item", value) of each row."""
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        if file.format == "json" and not _is_one_object(line):
            content = line + "".join(lines)
            items = _parse(file, number, content)
            if not isinstance(items, list):
                raise InputError(
                    f"{file.name}: line {number}: is {_kind(items)}, not a list: write a list of "
                    'objects, [{"text": ..., "label": ...}, ...]'
                )
            for item, value in enumerate(items, 1):
                yield item, "item", value
            return
        yield number, "line", _parse(file, number, line.rstrip("\n"))


def _is_one_object(line: str) -> bool:
    """Tell a first line that is an object by itself, as in a jsonl file."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parse(file: TableFile, line: int, content: str) -> Any:
    """Parse JSON that begins on a line of the file.

    Raises:
        InputError: it is not JSON, or has a number or a depth that Python refuses.
    """
    try:
        return _DECODER.decode(content)
    except _RepeatedKeyError as error:
        raise InputError(
            f'{file.name}: line {line}: an object has the key "{shown(error.key)}" twice: leave '
            "one out"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file.name}: line {line + error.lineno - 1}: column {error.colno}: not JSON "
            f"({error.msg}): correct this line"
        ) from error
    except RecursionError as error:
        raise InputError(
            f"{file.name}: line {line}: lists or objects inside each other, too many to read: "
            'write {"text": ..., "label": ...}'
        ) from error
    except ValueError as error:
        raise InputError(
            f"{file.name}: line {line}: has a number of more than {sys.get_int_max_str_digits():,} "
            "digits: put quotes around it, or leave it out"
        ) from error


class _RepeatedKeyError(ValueError):
    """An object with a key twice, of which Python's json would keep the last."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in values if keys.count(key) > 1))
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _as_text(value: Any) -> str | None:
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, str):
        return value
    return json.dumps(value)
