"""Files by their address: fetched once, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from ulmfit_fast.errors import InputError, one_line
from ulmfit_fast.interop.archives import LARGEST, check_published

SCHEMES = ("http", "https")
SECONDS, BLOCK = 30, 1 << 20

Progress = Callable[[int, int], None]
"""Told how many bytes are there, and of how many (0 where that is not known)."""


def is_address(source: str) -> bool:
    """Say whether a source is to be fetched."""
    return urlparse(source).scheme in SCHEMES


def path_of(source: str) -> Path:
    """Return the path of a file that is named by one, or by file://."""
    parts = urlparse(source)
    return Path(url2pathname(parts.path) if parts.scheme == "file" else source)


def download(address: str, folder: Path, progress: Progress | None = None) -> Path:
    """Return a file with the content of an address; what was fetched from it before is kept.

    Args:
        address: beginning with https:// or http://.
        folder: made where it is missing; each address has a folder of its own in it.
        progress: told after each block.

    Raises:
        InputError: there is no network, no such file, it is cut short, or not the published one.
        OSError: the folder cannot be written.
    """
    name = Path(urlparse(address).path).name
    if name in ("", ".", ".."):
        raise InputError(f"{address}: names no file")
    # Addresses often end alike (.../model.tgz): one must not get the file of another.
    target = folder / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    if target.is_file():
        check_published(target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    try:
        partial = place / name  # its own name, for check_published
        with partial.open("wb") as file:
            for block in _blocks(address, progress):
                file.write(block)
        check_published(partial)
        target.parent.mkdir(exist_ok=True)
        partial.replace(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return target


def _blocks(address: str, progress: Progress | None) -> Iterator[bytes]:
    """Yield the content of an address; raise InputError unless all of it comes."""
    n_done = n_all = 0
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            n_all = int(answer.headers.get("Content-Length") or 0)
            while block := answer.read(BLOCK):
                n_done += len(block)
                if n_done > LARGEST:
                    raise InputError(f"{address}: more than {LARGEST:,} bytes; refused")
                yield block
                if progress is not None:
                    progress(n_done, n_all)
    except InputError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        raise InputError(
            f"{address}: cannot be fetched ({reason}); fetch it elsewhere and give the file"
        ) from error
    if n_done < n_all:
        raise InputError(f"{address}: cut short, {n_done:,} of {n_all:,} bytes came; try again")
