"""Archives with a model in them, read in memory: nothing is unpacked to the disk."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from ulmfit_fast.errors import InputError, one_line

SUFFIXES = (".tgz", ".tar.gz", ".tar")
#: Bytes of everything in an archive, unpacked; the largest published model has 1.2 GB.
LARGEST = 2 << 30
#: Entries of an archive, and bytes of what describes one of them.
MOST_ENTRIES, LARGEST_HEADER = 1000, 1 << 20
GZIP = b"\x1f\x8b"
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
        with ExitStack() as stack:
            unpacked = _Unpacked(stack.enter_context(_opened(path)), path)
            archive = stack.enter_context(
                tarfile.open(fileobj=cast(IO[bytes], unpacked), mode="r:")
            )
            members = _members(archive, path)
            files = [m for m in members if m.isfile() and not _is_of_macos(m)]
            model = _only(files, MODEL_SUFFIXES, path)
            vocab = _only(files, VOCAB_SUFFIXES, path)
            unpacked.most_at_once = LARGEST
            contents = [_content(archive, member, path) for member in (model, vocab)]
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError) as error:
        why = one_line(error)
        raise InputError(f"{path}: damaged or cut short ({why}); get it again") from error
    names = [f"{path}:{one_line(member.name)}" for member in (model, vocab)]
    return Archive(contents[0], contents[1], names[0], names[1])


class _Unpacked:
    """What is in an archive, as a file of which no more is read than one may have."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file, self.path = file, path
        self.most_at_once = LARGEST_HEADER

    def read(self, n: int) -> bytes:
        """Return the next n bytes."""
        if n > self.most_at_once or self.file.tell() + n > LARGEST + LARGEST_HEADER:
            raise self._too_large()
        return self.file.read(n)

    def seek(self, place: int) -> int:
        """Go to a place."""
        if place > LARGEST + LARGEST_HEADER:
            raise self._too_large()
        return self.file.seek(place)

    def tell(self) -> int:
        """Return the place."""
        return self.file.tell()

    def _too_large(self) -> InputError:
        return InputError(f"{self.path}: unpacks to more than {LARGEST:,} bytes; refused")


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP)) == GZIP
    return cast(IO[bytes], gzip.open(path, "rb")) if is_packed else path.open("rb")


def _members(archive: tarfile.TarFile, path: Path) -> list[tarfile.TarInfo]:
    """Return the entries; raise InputError for one that is refused, and for too many."""
    members: list[tarfile.TarInfo] = []
    for member in archive:
        members.append(_checked(member, path))
        if len(members) > MOST_ENTRIES:
            raise InputError(f"{path}: more than {MOST_ENTRIES:,} entries; refused")
    return members


def _is_of_macos(member: tarfile.TarInfo) -> bool:
    """Say whether an entry is what macOS's tar writes beside each file."""
    return PurePosixPath(member.name).name.startswith("._")


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
    place, name = PurePosixPath(member.name), one_line(member.name)
    if place.is_absolute() or ".." in place.parts or "\\" in member.name or "\0" in member.name:
        raise InputError(f"{path}: entry {name!r} points outside of the archive; refused")
    if not (member.isfile() or member.isdir()):
        raise InputError(f"{path}: entry {name!r} is a link or device; refused")
    if member.issparse() or member.size > LARGEST:
        raise InputError(f"{path}: entry {name!r} has {member.size:,} bytes; refused")
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
        name = one_line(member.name)
        raise InputError(f"{path}: entry {name!r} is cut short; get the archive again")
    return data
