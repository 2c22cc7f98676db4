"""Where numericalized texts are kept for the next run."""

from __future__ import annotations

import os
from pathlib import Path

from ulmfit_fast.errors import InputError


def cache_folder(given: Path | None, *, is_wanted: bool = True) -> Path | None:
    """Return the folder to keep texts in, or None to keep them in memory.

    Without a folder given it is ulmfit_fast in $XDG_CACHE_HOME (as the XDG base directories have
    it: an absolute path, else ~/.cache), if that can be written.

    Args:
        given: what the user named; it is made when it is needed.
        is_wanted: whether a cache is wanted at all.

    Raises:
        InputError: a folder is given and cannot be written, or none is wanted.
    """
    if given is not None:
        if not is_wanted:
            raise InputError("--cache and --no-cache exclude each other: give one of them")
        if not _can_be_written(given):
            raise InputError(f"--cache {given}: cannot be written; give another folder")
        return given
    folder = _user_cache() if is_wanted else None
    return folder if folder is not None and _can_be_written(folder) else None


def _user_cache() -> Path | None:
    """Return the user's cache folder for this program; None for a user without a home."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        root = Path(home) / ".cache"
    return root / "ulmfit_fast"


def _can_be_written(folder: Path) -> bool:
    """Tell whether a folder, or the nearest one above it that exists, may be written in."""
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
