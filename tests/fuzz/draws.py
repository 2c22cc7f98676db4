"""Changes of a good file that the bytes of a fuzzer choose, so that deep checks are reached."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ulmfit_fast.errors import LONGEST_MESSAGE, InputError

T = TypeVar("T")
#: Values that some field does not expect.
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 8, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"),
    2**31, 2**63, -(2**63) - 1, 10**30, "", "a", "0", "cpu", "word", "subword", "xxunk", "\x1b[2J",
    "two\nlines", "\ud800", "\u202e", "\0", "F32", "F64", "I64", "BF16", "F8_E4M3", "F4",
    "x" * 3000, [], [0],
    [[]], [None], ["a", "a"], ["\ud800", "b"], [0, 0], [2, 2], [1 << 40, 1 << 40],
    [0, 16], list(range(40)), {}, {"a": 1}, {"": None}, {"dropouts": 1},
)  # fmt: skip


class Draw:
    """Reads a fuzzer's bytes as choices; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def byte(self) -> int:
        value = self.data[self.place] if self.place < len(self.data) else 0
        self.place += 1
        return value

    def below(self, n: int) -> int:
        """Draw from 0..n - 1."""
        value = self.byte()
        while n > 256 and value < n:
            value = value << 8 | self.byte() | 1 << 40
        return value % n if n else 0

    def pick(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def rest(self) -> bytes:
        left = self.data[self.place :]
        self.place = len(self.data)
        return left

    def take(self, n: int) -> bytes:
        taken = self.data[self.place : self.place + n]
        self.place += n
        return taken


def edited_json(value: Any, draw: Draw) -> Any:
    """Return JSON values, which are changed themselves, with one to four places changed."""
    for _ in range(1 + draw.below(4)):
        value = _edited_once(value, draw)
    return value


def _edited_once(value: Any, draw: Draw) -> Any:
    where, key, found = None, None, value
    for _ in range(1 + draw.below(4)):  # so deep
        if isinstance(found, dict) and found:
            where, key = found, draw.pick(list(found))
        elif isinstance(found, list) and found:
            where, key = found, draw.below(len(found))
        else:
            break
        found = where[key]
    what = draw.below(8)
    if where is None or key is None:
        return copy.deepcopy(draw.pick(ODD))
    if what == 0:
        del where[key]
    elif what == 1 and isinstance(where, dict):
        where[draw.pick(("a", "\n", "\ud800", "dropouts", "__class__", "self"))] = found
    elif what == 2:
        where[key] = [found]
    elif what == 3 and isinstance(found, (int, float)):
        where[key] = -found
    elif what == 4 and isinstance(found, list):
        where[key] = found + found[: 1 + draw.below(9)]
    elif what == 5:
        where[key] = draw.take(draw.below(12)).decode("utf-8", "replace")
    else:
        where[key] = copy.deepcopy(draw.pick(ODD))
    return value


def edited_bytes(data: bytes, draw: Draw) -> bytes:
    """Return bytes with one to four changed, inserted, left out or repeated."""
    changed = bytearray(data)
    for _ in range(1 + draw.below(4)):
        place, what = draw.below(len(changed) + 1), draw.below(6)
        if what == 0:
            changed[place : place + 1] = bytes([draw.byte()])
        elif what == 1:
            changed[place:place] = draw.take(1 + draw.below(8))
        elif what == 2:
            del changed[place : place + 1 + draw.below(16)]
        elif what == 3:
            del changed[place:]
        elif what == 4:
            changed[place:place] = draw.pick((b"[", b'{"a":', b"1", b" ")) * (1 + draw.byte() * 16)
        else:
            changed[place : place + 8] = draw.below(1 << 62).to_bytes(
                8, draw.pick(("little", "big"))
            )
    return bytes(changed)


def edited_file(content: bytes, draw: Draw) -> bytes:
    """Return a JSON file with values changed, bytes changed, or replaced by what is left."""
    what = draw.below(4)
    if what < 2:
        return json.dumps(edited_json(json.loads(content), draw)).encode()
    return edited_bytes(content, draw) if what == 2 else draw.rest()


def refuses(read: Callable[[], object]) -> bool:
    """Run a reader; return whether it refused, which must be in one line that can be printed.

    Everything but an InputError is left to whoever calls: it is a finding.
    """
    try:
        read()
    except InputError as error:
        message = str(error)
        assert message.isprintable(), f"not one printable line: {message!r}"
        assert len(message) <= LONGEST_MESSAGE, f"{len(message)} characters: {message[:200]}..."
        return True
    return False
