"""Find and open the file of a table: plain, gzip or xz; its encoding; errors that name the byte."""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from ..errors import InputError
from .kinds import N_BYTES, kind_by_content

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "txt", "label")
_COMPRESSED = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
_STARTS_OF_PACKED = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00"}
_DAMAGED = (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
# What other kinds of file become a table by.
_ADVICE_ON_KINDS = {
    **dict.fromkeys(("xlsx", "xls", "ods", "numbers"), "save the sheet as CSV (UTF-8) first"),
    **dict.fromkeys(("docx", "doc", "odt", "pdf", "rtf", "html", "htm"), "save it as .txt first"),
    **dict.fromkeys(("zip", "tar", "tgz", "7z", "bz2", "zst"), "unpack it first, or pack as .gz"),
    "arrow": "save it as parquet first (Dataset.to_parquet)",
}
_BLOCK = 1 << 20
#: Characters of a line, or of a row of a csv file, that no text has. A packed file of a few
#: megabytes may unpack to a line of many gigabytes, which would fill the memory.
LONGEST_LINE = 1 << 27


def shown(text: str, n_chars: int = 40) -> str:
    """Return what a file says as one short line without control characters, for a message."""
    line = "".join(c if c.isprintable() else "?" for c in text[:n_chars])
    return line + "..." if len(text) > n_chars else line


@dataclass(frozen=True)
class TableFile:
    """A file that exists and that we can read.

    Attributes:
        path: the file.
        format: one of FORMATS.
        compression: ".gz", ".xz" or "".
    """

    path: Path
    format: str
    compression: str

    @property
    def name(self) -> str:
        """The path as the user gave it, for messages."""
        return str(self.path)

    def open_bytes(self) -> BinaryIO:
        """Open for reading, unpacked."""
        if self.compression:
            return cast(BinaryIO, _COMPRESSED[self.compression](self.path))
        return open(self.path, "rb")


def find_file(path: Path) -> TableFile:
    """Look a file up.

    Raises:
        InputError: it is missing (naming the nearest file of the folder), a directory, empty, not
            readable, or of an unknown format.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder: give one file{_table_in(path)}")
    if _ADDRESS.match(str(path)) and not path.exists():
        raise InputError(
            f"{path}: is an address, and only files are read: download it first, or give a data "
            "set of the Hub as hf:OWNER/NAME"
        )
    if not path.exists():
        raise InputError(f"{path}: {_why_missing(path)}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(
            f"{path}: is a pipe or a device, not a file, and tables are read more than once: save "
            "what comes out of it as a file first"
        )
    extension, compression, advice = kind_of(path)
    if extension not in FORMATS:
        kind = f'unknown kind of file "{shown(extension)}"' if extension else "no ending"
        other = advice or "give another file"
        raise InputError(
            f"{path}: {kind}: {other}; read are {', '.join('.' + name for name in FORMATS)} "
            "(also .gz, .xz)"
        )
    file = TableFile(path, extension, compression)
    _check_content(file)
    return file


def kind_of(path: Path) -> tuple[str, str, str]:
    """Tell by a file's name what it is.

    Returns:
        format: one of FORMATS, or another ending, without its dot.
        compression: ".gz", ".xz" or "".
        advice: how a file of another kind becomes one of these; may be empty.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in _COMPRESSED else ""
    extension = suffixes[-1][1:] if suffixes else ""
    extension = {"ndjson": "jsonl", "text": "txt"}.get(extension, extension)
    return extension, compression, _ADVICE_ON_KINDS.get(extension, "")


def _check_content(file: TableFile) -> None:
    """Raise InputError for a file that is empty or of another kind than its name says."""
    kind = None
    with reading(file):
        with open(file.path, "rb") as packed:
            start = packed.read(N_BYTES)
        if file.compression and not start.startswith(_STARTS_OF_PACKED[file.compression]):
            kind = kind_by_content(start, "")
        if kind is None and file.compression and start:
            with file.open_bytes() as stream:
                start = stream.read(N_BYTES)
    if not start:
        raise InputError(f"{file.path}: the file is empty: give a file with at least one text")
    kind = kind or kind_by_content(start, file.format)
    if kind is not None:
        what, advice = kind
        raise InputError(f"{file.path}: is {what}, whatever its name says: {advice}")


def _table_in(folder: Path) -> str:
    """Name a file of a folder, for a message."""
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower()[1:] in FORMATS and p.is_file())
    return f", such as {tables[0]}" if tables else f" ({', '.join(FORMATS)})"


def _why_missing(path: Path) -> str:
    """Say why there is no such file, and what to do."""
    if not path.is_symlink():
        return f"no such file: {_nearest(path)}"
    target = os.readlink(path)
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"is a link to {target}, which leads back to it: give the file itself"
    return f"no such file: it is a link to {target}, which is not there: give the file itself"


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either, check the path"
    names = [entry.name for entry in path.parent.iterdir()]
    near = get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"


@contextmanager
def reading(file: TableFile) -> Iterator[None]:
    """Turn what goes wrong while reading a file into an InputError that names it."""
    try:
        yield
    except _DAMAGED as error:
        raise _damaged(file, error) from error
    except PermissionError:
        raise InputError(f"{file.name}: no permission to read it: change its mode") from None
    except UnicodeDecodeError as error:
        raise _undecodable(file, error.encoding) from error
    except UnicodeError as error:
        raise InputError(
            f"{file.name}: not of the encoding asked for ({shown(str(error), 60)}): leave "
            "--encoding out, or save as UTF-8"
        ) from error


def known_encoding(encoding: str, where: str) -> str:
    """Return Python's name of an encoding.

    Args:
        encoding: as the user wrote it.
        where: the source, for messages.

    Raises:
        InputError: Python does not know it, or it is none of text, such as hex.
    """
    try:
        name = codecs.lookup(encoding).name
        "a".encode(name)
    except (LookupError, ValueError):
        raise InputError(
            f'{where}: unknown encoding "{shown(encoding)}": use for example --encoding latin-1'
        ) from None
    return name


def encoding_of(file: TableFile, encoding: str | None) -> str:
    """Return the encoding asked for, or what the first bytes say: a BOM, else UTF-8.

    Raises:
        InputError: Python does not know the encoding asked for.
    """
    if encoding is not None:
        return known_encoding(encoding, file.name)
    with reading(file), file.open_bytes() as stream:
        start = stream.read(4)
    return next((name for bom, name in _BOMS if start.startswith(bom)), "utf-8")


def _damaged(file: TableFile, error: Exception) -> InputError:
    return InputError(f"{file.name}: the packed file is damaged or cut off, make it again: {error}")


def _undecodable(file: TableFile, encoding: str) -> InputError:
    """Find the first byte that is not valid and say where it is."""
    try:
        return _first_undecodable(file, encoding)
    except _DAMAGED as error:  # behind what was read when the byte was met
        return _damaged(file, error)


def _first_undecodable(file: TableFile, encoding: str) -> InputError:
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = n_lines = 0
    with file.open_bytes() as stream:
        while block := stream.read(_BLOCK):
            pending = len(decoder.getstate()[0])
            try:
                n_lines += decoder.decode(block).count("\n")
            except UnicodeDecodeError as error:
                good = bytes(error.object[: error.start])
                line = n_lines + good.decode(encoding, "ignore").count("\n") + 1
                at = offset - pending + error.start
                return InputError(
                    f"{file.name}: line {line}: byte 0x{error.object[error.start]:02x} at offset "
                    f"{at} is not {encoding}: try {_advice(encoding)}, or save as UTF-8"
                )
            offset += len(block)
    return InputError(f"{file.name}: ends in the middle of a {encoding} character: save it again")


def _advice(encoding: str) -> str:
    return "--encoding latin-1" if encoding.startswith("utf") else "--encoding utf-8"


@contextmanager
def open_lines(file: TableFile, encoding: str, *, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as text.

    Args:
        file: what to open.
        encoding: from `encoding_of`.
        newline: as in `open`: None makes all line ends alike, "" keeps them.

    Raises:
        InputError: inside the with block, for a byte that is not of this encoding.
    """
    with reading(file), file.open_bytes() as stream:
        yield io.TextIOWrapper(stream, encoding=encoding, newline=newline)


def checked_lines(file: TableFile, stream: TextIO) -> Iterator[str]:
    """Yield the lines of a stream, in bounded memory also of a packed file without line ends.

    Raises:
        InputError: a line has a NUL byte, or more than LONGEST_LINE characters.
    """
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if "\0" in line:
            raise InputError(
                f"{file.name}: line {number}: column {line.index(chr(0)) + 1}: NUL byte: remove "
                "it, or give the encoding of the file, for example --encoding utf-16"
            )
        if len(line) > LONGEST_LINE:
            raise InputError(
                f"{file.name}: line {number}: is longer than {LONGEST_LINE:,} characters: is this "
                "a table of texts? cut it into several rows"
            )
        yield line
