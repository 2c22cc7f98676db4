"""The kinds of a bench at sizes that take milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ulmfit_fast.bench.kinds import Kind, Size
from ulmfit_fast.bench.run import KINDS

SMALL = [Size(6, 4, 24, 120), Size(3, 2, 16, 60)]


def small_kinds(names: Sequence[str] = ()) -> list[Kind]:
    """Return all kinds, or those of some names."""
    return [replace(kind, sizes=SMALL) for kind in KINDS if not names or kind.name in names]
