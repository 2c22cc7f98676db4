"""Examinations as JSON, so that one can be shown where there is neither torch nor the model."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination import Examination

FORMAT = "ulmfit_fast.examination"
FORMAT_VERSION = 1


def to_json(examination: Examination) -> str:
    """Return one line of ASCII; numbers that are not finite are null."""
    content = {"format": FORMAT, "version": FORMAT_VERSION, **_plain(examination)}
    return json.dumps(content, allow_nan=False)


def from_json(text: str) -> Examination:
    """Read what to_json wrote; null in the place of a number is nan.

    Raises:
        InputError: no JSON, no examination, one of another version, or one that is damaged.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not an examination: no JSON ({error}); make it again") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError("not an examination: give a file that to_json wrote")
    version = content.pop("version", None)
    if version != FORMAT_VERSION:
        raise InputError(
            f"examination of version {version!r}, this release reads {FORMAT_VERSION}: "
            "make it again"
        )
    try:
        examination: Examination = _typed(content, Examination, "examination")
    except OverflowError as error:  # a number that no float holds
        raise InputError(f"not an examination ({error}); make it again") from error
    return examination


def _plain(value: Any) -> Any:
    """Return a value of dataclasses, tuples and mappings as JSON holds it."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(value: Any, kind: Any, place: str) -> Any:
    """Return a JSON value as what a type hint says; InputError where it is something else."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # of a type and None
        chosen = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _typed(value, chosen, place)
    if is_dataclass(kind):
        return _dataclass(value, kind, place)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_typed(v, arguments[0], f"{place}[{i}]") for i, v in enumerate(value))
        if len(value) == len(arguments):
            pairs = enumerate(zip(value, arguments, strict=True))
            return tuple(_typed(v, argument, f"{place}[{i}]") for i, (v, argument) in pairs)
    elif origin is Mapping and isinstance(value, dict):
        return {key: _typed(item, arguments[1], f"{place}.{key}") for key, item in value.items()}
    elif kind is float and (value is None or type(value) in (int, float)):
        return math.nan if value is None else float(value)
    elif kind in (int, str) and type(value) is kind:
        return value
    raise InputError(f"{place}: the examination is damaged; make it again")


def _dataclass(value: Any, kind: Any, place: str) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict) or value.keys() - hints.keys():
        raise InputError(f"{place}: the examination is damaged; make it again")
    given = {name: _typed(item, hints[name], f"{place}.{name}") for name, item in value.items()}
    try:
        return kind(**given)
    except TypeError as error:  # a field is missing
        raise InputError(f"{place}: the examination is damaged; make it again") from error
