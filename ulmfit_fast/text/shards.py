"""Find the files of a folder or a pattern that together are one corpus, and see that they stay."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from .sources import TableFile, find_file, kind_of, shown

SHARD_FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "txt")
# What stands beside shards and holds no text; so do names that begin with a dot or a low line.
_NO_SHARD = re.compile(
    r"""(readme|licen[cs]e|notice|citation|changelog)(\.(md|txt|rst|cff|bib))?
    | (dataset_infos?|dataset_dict|state|manifest)\.json
    | (md5|sha1|sha256|sha512)(sums?)?(\.txt)? | checksums?(\.\w+)?
    | .*\.(crc|md5|sha1|sha256|sha512|sig|asc)""",
    re.IGNORECASE | re.VERBOSE,
)
# What is packed, as columns of parquet are, is so many times as large unpacked.
_UNPACKED = 4
_NUMBER = re.compile(r"([0-9]+)")

Stamp = tuple[int, int]


class Shards:
    """The files of one corpus, in order: their names by parts of the path, numbers by value.

    Args:
        source: a file, a folder of shards, or a pattern with *, ? or [...] (`**` goes into
            folders below).

    Attributes:
        source: as given.
        files: all of one format.

    Raises:
        InputError: there is no such file, or none fits; a file is of an unknown kind, or of
            another than the first; or one is empty or cannot be read.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.is_sharded = is_sharded(source)
        self._paths = _list_of(source) if self.is_sharded else [Path(source)]
        if self.is_sharded:
            _check_kinds(source, self._paths)
        self.files = [find_file(path) for path in self._paths]
        self._stamps = {path: _stamp_of(path) for path in self._paths}

    @property
    def n_bytes(self) -> int:
        """About how many bytes all files have unpacked."""
        return sum(
            self._stamps[file.path][0]
            * (_UNPACKED if file.compression or file.format == "parquet" else 1)
            for file in self.files
        )

    def unchanged(self) -> Iterator[TableFile]:
        """Yield the files.

        Raises:
            InputError: since they were found, one has been changed, removed or added.
        """
        found = _list_of(self.source) if self.is_sharded else self._paths
        changed = sorted(set(found) ^ set(self._paths))
        if changed:
            what = "gone" if changed[0] in self._paths else "new"
            raise _changed(changed[0], f"is {what} since the texts were first read")
        for file in self.files:
            self._check(file.path)
            yield file
            self._check(file.path)

    def _check(self, path: Path) -> None:
        try:
            now = _stamp_of(path)
        except OSError:
            raise _changed(path, "is gone since the texts were first read") from None
        if now != self._stamps[path]:
            raise _changed(path, "has changed since the texts were first read")


def is_sharded(source: str) -> bool:
    """Tell a folder, or a pattern of names, from a file."""
    path = Path(source)
    return path.is_dir() or (not path.exists() and glob.has_magic(source))


def check_source(source: str) -> None:
    """Look a source up that is a file, a folder or a pattern.

    Raises:
        InputError: as of Shards.
    """
    Shards(source)


def name_of_source(source: str) -> str:
    """Return a name for what is made of a source: without folders, endings and patterns."""
    name = Path(source).name
    if is_sharded(source):
        folders = [part for part in Path(source).parts if not glob.has_magic(part)]
        name = folders[-1] if folders else ""
    return name.partition(".")[0]


def natural_order(parts: Sequence[str]) -> list[tuple[list[tuple[bool, int, str]], str]]:
    """Return what sorts paths, given by their parts: 2 before 10."""
    return [
        (
            [
                (True, int(piece), "") if i % 2 else (False, 0, piece)
                for i, piece in enumerate(_NUMBER.split(part))
            ],
            part,
        )
        for part in parts
    ]


def _list_of(source: str) -> list[Path]:
    """Return the shards of a folder or a pattern, in order."""
    if Path(source).is_dir():
        found, top = set(_files_below(Path(source))), Path(source)
    else:
        matches = [Path(match) for match in glob.glob(source, recursive=True)]
        found, top = set(), Path()
        for path in matches:
            found |= {path} if not path.is_dir() else set(_files_below(path))
        found = {path for path in found if not _is_ignored(path.name)}
    if not found:
        kinds = ", ".join(f".{name}" for name in SHARD_FORMATS)
        why = "the folder has no" if Path(source).is_dir() else "this pattern fits no"
        raise InputError(f"{source}: {why} file of texts: give one that has ({kinds})")
    return sorted(found, key=lambda path: natural_order(_below(path, top)))


def _below(path: Path, top: Path) -> Sequence[str]:
    return path.relative_to(top).parts if path.is_relative_to(top) else path.parts


def _is_ignored(name: str) -> bool:
    return name.startswith((".", "_")) or _NO_SHARD.fullmatch(name) is not None


def _files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, links followed, but never in a circle."""
    place = os.path.realpath(folder)
    if place in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        raise InputError(f"{folder}: no permission to read it: change its mode") from None
    for path in entries:
        if _is_ignored(path.name):
            continue
        if path.is_dir():
            yield from _files_below(path, (*above, place))
        else:
            yield path


def _check_kinds(source: str, paths: Iterable[Path]) -> None:
    """Refuse a file that is no shard, and shards of two formats."""
    first: tuple[Path, str] | None = None
    for path in paths:
        advice = "move it out, or name the shards by a pattern such as"
        kind = kind_of(path)[0]
        if kind not in SHARD_FORMATS:
            kinds = ", ".join(f".{name}" for name in SHARD_FORMATS)
            raise InputError(
                f"{path}: is no shard of texts ({kinds}, also .gz, .xz): {advice} "
                f"{_pattern(source, first and first[0])}{_unpacked(path)}"
            )
        if first is not None and kind != first[1]:
            raise InputError(
                f"{path}: is .{kind}, and {first[0]} is .{first[1]}: shards have one format; "
                f"{advice} {_pattern(source, first and first[0])}"
            )
        first = first or (path, kind)


def _pattern(source: str, shard: Path | None) -> str:
    """Return a pattern of files like a shard."""
    ending = ".jsonl"
    if shard is not None:
        ending = "".join(shard.suffixes[-2 if kind_of(shard)[1] else -1 :])
    folder = source if Path(source).is_dir() else os.path.dirname(source)
    return f'"{shown(os.path.join(folder, "**", f"*{ending}"), 200)}"'


def _unpacked(path: Path) -> str:
    advice = kind_of(path)[2]
    return f"; if it has texts, {advice}" if advice else ""


def _stamp_of(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _changed(path: Path, how: str) -> InputError:
    return InputError(f"{path}: {how}: start again, and leave the files alone while they are read")
