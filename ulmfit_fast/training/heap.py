"""Gives memory that a long training has freed back to the system."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

#: Seconds between two times.
EVERY_S = 30.0


class Heap:
    """The C library's heap.

    torch asks for aligned memory, and glibc before 2.38 seldom uses again what was freed of it
    (glibc bug 14581): in steps of one and the same shape the heap grows, by 240 kB a step with size
    "small" in bfloat16. Pages that hold nothing are given back, which a training hardly notices.

    Args:
        trim: gives them back; None takes glibc's malloc_trim, and does nothing without it.
        clock: seconds.
    """

    def __init__(
        self,
        trim: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trim = trim or find_trim()
        self._clock = clock
        self._trimmed_at = clock()

    def trim_if_due(self) -> None:
        """Give pages back if that was not done for EVERY_S."""
        if self._trim is not None and self._clock() - self._trimmed_at >= EVERY_S:
            self._trim()
            self._trimmed_at = self._clock()


def find_trim() -> Callable[[], object] | None:
    """Return glibc's malloc_trim of everything; None where there is another C library."""
    if not sys.platform.startswith("linux"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(ctypes.c_size_t(0))
