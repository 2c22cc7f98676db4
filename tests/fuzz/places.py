"""Folders in memory for the files that a target reads."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

MEMORY = Path("/dev/shm")


@cache
def place(name: str) -> Path:
    """Return a folder of this process, in memory where there is such a file system."""
    inside = MEMORY if MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix=f"ulmfit-fast-{name}-", dir=inside))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
