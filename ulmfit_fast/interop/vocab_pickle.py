"""Vocabularies as fastai stores them: a pickled list of strings, read without pickle.

Nothing in such a file is executed: its instructions are interpreted here, and only those that make
lists, tuples and strings are known.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ulmfit_fast.errors import InputError

#: A vocabulary of a million words takes some 20 MB and two million instructions.
LARGEST, MOST_INSTRUCTIONS = 64 << 20, 8_000_000
_STRINGS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"})
_NOTHING = frozenset({"PROTO", "FRAME"})
_REMEMBER = frozenset({"BINPUT", "LONG_BINPUT", "PUT"})
_RECALL = frozenset({"BINGET", "LONG_BINGET", "GET"})
#: Instructions that take everything above the last mark.
_MARKED: dict[str, Callable[[list[Any]], Any]] = {"LIST": list, "TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Mark:
    """Where a list or tuple begins on the stack."""


def read_vocab_pickle(data: bytes, name: str | Path) -> list[str]:
    """Read a vocabulary.

    Args:
        data: content of the file.
        name: of the file, for messages.

    Returns:
        vocab: the token of each id.

    Raises:
        InputError: it is damaged, or holds anything but a list of strings.
    """
    if len(data) > LARGEST:
        raise InputError(f"{name}: {len(data):,} bytes are too many for a vocabulary")
    try:
        found = _run(data, name)
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: damaged, not a pickled list of tokens; get it again") from error
    return check_vocab(found, name)


def check_vocab(found: object, name: str | Path) -> list[str]:
    """Return a vocabulary; raise InputError unless it is a list of strings, at least one."""
    if not isinstance(found, list | tuple) or not all(isinstance(token, str) for token in found):
        raise InputError(f"{name}: expected a list of tokens; save list(vocab)")
    if not found:
        raise InputError(f"{name}: the vocabulary is empty")
    return list(found)


def _run(data: bytes, name: str | Path) -> object:
    """Interpret the instructions of a pickle; return what it holds."""
    stack: list[Any] = []
    memo: list[Any] | dict[int, Any] = {}
    for n_done, (opcode, argument, _) in enumerate(_instructions(data)):
        code = opcode.name
        if n_done == MOST_INSTRUCTIONS:
            raise InputError(f"{name}: more than {n_done:,} instructions for a vocabulary; refused")
        if code in _STRINGS:
            stack.append(argument)
        elif code in ("EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append([] if code == "EMPTY_LIST" else ())
        elif code == "MARK":
            stack.append(_Mark)
        elif code in _MARKED:
            stack.append(_MARKED[code](_above_mark(stack)))
        elif code in _TUPLES:
            items = stack[len(stack) - _TUPLES[code] :]
            del stack[len(stack) - _TUPLES[code] :]
            stack.append(tuple(items))
        elif code == "APPENDS":
            items = _above_mark(stack)
            stack[-1].extend(items)
        elif code == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif code in _REMEMBER:
            memo[int(argument)] = stack[-1]
        elif code == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code in _RECALL:
            stack.append(memo[int(argument)])
        elif code == "STOP":
            return stack.pop()
        elif code not in _NOTHING:
            raise InputError(
                f"{name}: holds more than a list of strings ({code}), which might run code; it was "
                "not run. Save list(vocab) of strings alone"
            )
    raise ValueError("no end")


def _instructions(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    return pickletools.genops(data)


def _above_mark(stack: list[Any]) -> list[Any]:
    """Take everything above the last mark, and the mark."""
    place = len(stack) - 1
    while stack[place] is not _Mark:  # from the end: what is above the mark is taken, and only once
        place -= 1
        if place < 0:
            raise ValueError("no mark")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def vocab_pickle(vocab: Sequence[str]) -> bytes:
    """Return a list of strings as a pickle of protocol 2, which fastai's load_pickle reads."""
    tokens = (token.encode("utf-8", "surrogatepass") for token in vocab)
    items = b"".join(b"X" + len(t).to_bytes(4, "little") + t for t in tokens)
    return b"\x80\x02](" + items + b"e."
