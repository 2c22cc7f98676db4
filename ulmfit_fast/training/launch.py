"""What a launcher such as torchrun says of the processes that it started; needs no torch.

A process is one of several where RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set and
WORLD_SIZE is above 1. Everything else is one process.
"""

from __future__ import annotations

import os

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


def world_size() -> int:
    """Return the number of processes; 1 where nobody launched several."""
    return _number("WORLD_SIZE", 1) if all(name in os.environ for name in _NEEDED) else 1


def rank() -> int:
    """Return the number of this process, in [0, world_size)."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine: that of its GPU."""
    return _number("LOCAL_RANK", 0) if world_size() > 1 else 0


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1) if world_size() > 1 else 1


def node() -> int:
    """Return the number of this machine; that of rank 0 is 0."""
    return _number("GROUP_RANK", 0) if world_size() > 1 else 0


def n_restarts() -> int:
    """Return how often torchrun has started the processes anew (its --max-restarts)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) if world_size() > 1 else 0


def is_first() -> bool:
    """Say whether this process is the one that talks and writes: rank 0, or the only one."""
    return rank() == 0
