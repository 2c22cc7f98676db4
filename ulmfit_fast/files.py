"""Files that may come from strangers: no more is read than may be there, and nothing waits."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ulmfit_fast.errors import InputError, one_line

#: Bytes of a JSON file; a vocabulary of a million tokens has some 20 MB.
LARGEST_JSON = 64 << 20
#: Beyond, a whole number of JSON fits no machine's.
LARGEST_NUMBER = 2**63 - 1


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Return the content of a file, which a link may name: the Hub's cache is made of links.

    Args:
        path: the file.
        most: bytes that it may have; None for any number.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        InputError: it is a folder, a device or a pipe, which may give bytes without end or none
            ever, has more bytes than it may, or cannot be read.
    """
    try:
        # Without O_NONBLOCK a pipe would wait here for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a file but {_kind(status.st_mode)}; give a file")
        if most is not None and status.st_size > most:
            raise InputError(f"{path}: has {status.st_size:,} bytes, at most {most:,} are read")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return InputError(f"{path}: cannot be read ({reason}); check its place and its mode")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe or socket" if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else "a device"


def parse_object(content: bytes, name: object) -> dict[str, Any]:
    """Return a JSON object; arguments and errors as of parse_json, and it is something else."""
    values = parse_json(content, name)
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected a JSON object, found {type(values).__name__}")
    return values


def parse_json(content: bytes, name: object) -> Any:
    """Return JSON values.

    Args:
        content: of a file.
        name: of the file, for messages.

    Raises:
        InputError: it is no JSON, not UTF-8, or too deep to be read.
    """
    try:
        # Half characters stand in tokens that were cut from broken text.
        return json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not valid JSON ({error}); the file is damaged") from error


def from_json(cls: Any, values: Any, name: str) -> Any:
    """Return a dataclass of numbers, texts, tuples and dataclasses from asdict()'s output.

    Args:
        cls: the dataclass; every field must be there, and no other.
        values: JSON values.
        name: of the values, for messages.

    Raises:
        InputError: a field is missing, unknown, or has a value of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected fields with values, found {_shown(values)}")
    names = {field.name for field in fields(cls)}
    if names != values.keys():
        odd = one_line(", ".join(sorted(names ^ values.keys())))
        raise InputError(f"{name} do not fit this version of ulmfit_fast (fields: {odd})")
    hints = get_type_hints(cls)
    return cls(**{key: _converted(hints[key], values[key], f"{name} {key}") for key in names})


def _converted(kind: Any, value: Any, name: str) -> Any:
    """Return a value as the type of a field wants it; raise InputError where that cannot be."""
    if is_dataclass(kind):
        return from_json(kind, value, name)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise InputError(f"{name}: expected {len(parts)} values, found {_shown(value)}")
        return tuple(_converted(k, v, name) for k, v in zip(parts, value, strict=True))
    if get_origin(kind) is Literal:
        kind = str
    fits = type(value) in ((int, float) if kind is float else (kind,))
    if fits and type(value) is int:
        fits = abs(value) <= LARGEST_NUMBER
    if not fits or (type(value) is float and not math.isfinite(value)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise InputError(f"{name}: expected {words[kind]}, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return one_line(repr(value), 60)
