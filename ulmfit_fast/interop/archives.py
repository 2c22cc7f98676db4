"""Archives with a model in them, read in memory: nothing is unpacked to the disk."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ulmfit_fast.errors import InputError

SUFFIXES = (".tgz", ".tar.gz", ".tar")
#: Bytes that one file of an archive may have, and all of them.
LARGEST_FILE = 4 << 30
MODEL_SUFFIXES, VOCAB_SUFFIXES = (".pth", ".h5"), (".pkl",)


class Published(NamedTuple):
    """Size and MD5 of a file that fastai published."""

    n_bytes: int
    md5: str


#: fastai1, 2019-06-10: trained on WikiText-103, forward and backward.
PUBLISHED = {
    "wt103-fwd.tgz": Published(105_067_061, "7d1114cd9684bf9d1ca3c9f6a54da6f9"),
    "wt103-bwd.tgz": Published(105_205_312, "20b06f5830fd5a891d21044c28d3097f"),
}


class Archive(NamedTuple):
    """Contents of the two files that make a language model."""

    model: bytes
    vocab: bytes
    model_name: str
    vocab_name: str


def is_archive(name: str) -> bool:
    """Say whether a name is that of an archive."""
    return name.lower().endswith(SUFFIXES)


def read_archive(path: Path) -> Archive:
    """Read the model and the vocabulary of an archive.

    Args:
        path: a tar file, gzipped or not, with one .pth or .h5 and one .pkl.

    Raises:
        InputError: it is damaged, not the published file of its name, holds other files than these
            two once, or entries that point elsewhere.
    """
    check_published(path)
    try:
        with tarfile.open(path, "r:*") as archive:
            members = [_checked(member, path) for member in archive.getmembers()]
            files = [member for member in members if member.isfile()]
            model = _only(files, MODEL_SUFFIXES, path)
            vocab = _only(files, VOCAB_SUFFIXES, path)
            contents = [_content(archive, member, path) for member in (model, vocab)]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path}: damaged or cut short ({error}); get it again") from error
    return Archive(contents[0], contents[1], f"{path}:{model.name}", f"{path}:{vocab.name}")


def check_published(path: Path) -> None:
    """Raise InputError if a file with a published name is another one."""
    expected = PUBLISHED.get(path.name)
    if expected is None or not path.is_file():
        return
    n_bytes = path.stat().st_size
    if n_bytes != expected.n_bytes:
        raise InputError(
            f"{path}: {n_bytes:,} bytes, but the published file has {expected.n_bytes:,}: get it "
            "again, or rename it if it is your own"
        )
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != expected.md5:
        raise InputError(f"{path}: its MD5 is {md5}, not {expected.md5} as published: get it again")


def _checked(member: tarfile.TarInfo, path: Path) -> tarfile.TarInfo:
    """Return an entry; raise InputError for one that could reach outside of the archive."""
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts or "\\" in member.name or "\0" in member.name:
        raise InputError(f"{path}: entry {member.name!r} points outside of the archive; refused")
    if not (member.isfile() or member.isdir()):
        raise InputError(f"{path}: entry {member.name!r} is a link or device; refused")
    if member.size > LARGEST_FILE:
        raise InputError(f"{path}: entry {member.name!r} has {member.size:,} bytes; refused")
    return member


def _only(files: list[tarfile.TarInfo], suffixes: tuple[str, ...], path: Path) -> tarfile.TarInfo:
    found = [member for member in files if member.name.lower().endswith(suffixes)]
    if len(found) != 1:
        kinds = " or ".join(suffixes)
        raise InputError(f"{path}: expected one {kinds} file in it, found {len(found)}")
    return found[0]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise InputError(f"{path}: entry {member.name!r} is cut short; get the archive again")
    return data
