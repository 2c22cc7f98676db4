"""Files by their address: fetched once, whole or not at all."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.archives import check_published

SCHEMES = ("http", "https")
SECONDS = 30


def is_address(source: str) -> bool:
    """Say whether a source is to be fetched."""
    return urlparse(source).scheme in SCHEMES


def download(address: str, folder: Path) -> Path:
    """Return a file of the folder with the content of an address; one that is there is kept.

    Args:
        address: beginning with https:// or http://.
        folder: made where it is missing.

    Raises:
        InputError: there is no network, no such file, or it is not the published one.
        OSError: the folder cannot be written.
    """
    name = Path(urlparse(address).path).name
    if not name:
        raise InputError(f"{address}: names no file")
    target = folder / name
    if target.is_file():
        check_published(target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{name}.part") / name  # its own name, for check_published
    partial.parent.mkdir(exist_ok=True)
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer, partial.open("wb") as file:
            shutil.copyfileobj(answer, file)
        check_published(partial)
        partial.replace(target)
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{address}: cannot be fetched ({reason}); fetch it elsewhere and give the file"
        ) from error
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)
    return target
