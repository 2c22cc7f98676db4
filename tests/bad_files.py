"""Forty files and more that go wrong in the wild: what each must be answered with, or read as."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
import pyarrow.parquet

WORDS = "the film was slow and bright but nobody said so while a quiet actor told his story"


def text_of(i: int) -> str:
    words = WORDS.split()
    return " ".join(words[(i * (k + 3) + k) % len(words)] for k in range(9)) + f" number {i}"


ROWS = [(text_of(i), ("pos", "neg")[i % 2]) for i in range(30)]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
LINES = [json.dumps({"text": text, "label": label}) for text, label in ROWS]


@dataclass(frozen=True)
class Bad:
    """A file that goes wrong.

    Attributes:
        name: of the file.
        make: writes it, or is its content.
        says: what the one line of the error holds, after the file's name; () for a file that is
            read as ROWS.
        finds: the finding of `check` that it gives instead of an error, where it can be read.
        options: of the command line.
        rows: that are read where there is neither an error nor a finding.
    """

    name: str
    make: str | bytes | Callable[[Path], object]
    says: tuple[str, ...] = ()
    finds: str = ""
    options: tuple[str, ...] = ()
    rows: list[tuple[str, str]] = field(default_factory=lambda: ROWS)

    def write(self, folder: Path) -> Path:
        """Make the file in a folder and return its path."""
        path = folder / self.name
        if callable(self.make):
            self.make(path)
        elif isinstance(self.make, bytes):
            path.write_bytes(self.make)
        else:
            path.write_bytes(self.make.encode())
        return path


def with_line(line: str, at: int = 10, content: str = CSV) -> str:
    """Return lines with another one in the place of one, counted from 1."""
    lines = content.split("\n")
    lines[at - 1] = line
    return "\n".join(lines)


def parquet_of(columns: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def zip_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def table_of(separator: str = ",", ending: str = "\n", quote: str = "") -> str:
    rows = [("text", "label"), *ROWS]
    return "".join(f"{quote}{a}{quote}{separator}{b}{ending}" for a, b in rows)


def zeros(path: Path, n_mib: int = 10_240) -> None:
    """Write zeros packed a thousandfold: a member of 64 MiB, again and again."""
    member = gzip.compress(bytes(64 << 20), 9)
    with path.open("wb") as file:
        for _ in range(n_mib // 64):
            file.write(member)


def one_line_of_zeros(path: Path) -> None:
    """Write a csv file whose second line is ten gigabytes of one letter, packed."""
    member = gzip.compress(b"a" * (64 << 20), 9)
    with path.open("wb") as file:
        file.write(gzip.compress(b"text,label\n"))
        for _ in range(160):
            file.write(member)


def loop_of_links(path: Path) -> None:
    path.symlink_to(path.name)


def closed(path: Path) -> None:
    path.write_text(CSV)
    path.chmod(0)


QUOTED = table_of(quote='"')
BYTES = CSV.encode()
HTML = (
    "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n<body>gone</body></html>\n"
)
LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 12345\n"
)
DECIMAL_ROWS = [(text, f"{i % 2 + 1},5") for i, (text, _) in enumerate(ROWS)]
DECIMALS = "text;label\n" + "".join(f"{text};{label}\n" for text, label in DECIMAL_ROWS)
UNNAMED = "".join(f"{text},{label}\n" for text, label in ROWS)
BOTH = ("--text-column", "label", "--label-column", "label")

BAD_FILES: dict[str, Bad] = {
    # The shape of a csv file
    "quote not closed": Bad("t.csv", with_line('"the film,pos'), ("line 10", "quote", "close")),
    "quote not closed, others follow": Bad(
        "t.csv", with_line('"the film was slow,pos', content=QUOTED), ("line 1", "quote", "close")),
    "quotes doubled wrongly": Bad(
        "t.csv", with_line('"he said "no" to it",pos'), ("line 10", "quote", '""')),
    "commas without quotes": Bad(
        "t.csv", with_line("slow, bright, and long,pos"), ("line 10", "4 columns", "put quotes")),
    "commas in the first row": Bad(
        "t.csv", with_line("slow, bright, and long,pos", 2), ("line 2", "4 columns", "put quotes")),
    "row cut short": Bad("t.csv", with_line("the film"), ("line 10", "1 columns", "add")),
    "commas at the end": Bad("t.csv", with_line("the film,pos,,"), ("line 10", "4 columns")),
    "a comma at the end of all": Bad(
        "t.csv", CSV.replace("\n", ",\n"), ("line 1", "column 3", "empty name")),
    "a column twice": Bad(
        "t.csv", table_of().replace("label\n", "text\n", 1), ("line 1", 'named "text"', "rename")),
    "no header": Bad("t.csv", UNNAMED),
    "tabs in a csv": Bad("t.csv", table_of("\t")),
    "commas in a tsv": Bad("t.tsv", CSV, ("one column alone", "name the file .csv")),
    "semicolons, decimal commas": Bad("t.csv", DECIMALS, rows=DECIMAL_ROWS),
    "Excel's sep=;": Bad("t.csv", "sep=;\n" + table_of(";")),
    "line ends of old Macs": Bad("t.csv", table_of(ending="\r")),
    "line ends of DOS": Bad("t.csv", table_of(ending="\r\n")),
    "line ends of all kinds": Bad("t.csv", CSV.replace("\n", "\r\n", 5).replace("pos\n", "pos\r")),
    "ended by Control-Z": Bad("t.csv", CSV + "\x1a", ("line 32", "1 columns")),
    # Bytes
    "byte order mark": Bad("t.csv", b"\xef\xbb\xbf" + BYTES),
    "two byte order marks": Bad("t.csv", b"\xef\xbb\xbf\xef\xbb\xbf" + BYTES),
    "UTF-16": Bad("t.csv", CSV.encode("utf-16")),
    "UTF-16 without its mark": Bad("t.csv", CSV.encode("utf-16-le"), ("line 1", "NUL", "utf-16")),
    "UTF-32": Bad("t.csv", CSV.encode("utf-32")),
    "Latin-1": Bad("t.csv", BYTES + b"caf\xe9,pos\n", ("line 32", "0xe9", "--encoding")),
    "NUL": Bad("t.csv", BYTES + b"a\0b,pos\n", ("line 32", "NUL", "remove")),
    "NULs for a file that was never written": Bad("t.csv", bytes(4096), ("line 1", "NUL")),
    "UTF-8 cut in a character": Bad("t.csv", BYTES + b"caf\xc3", ("ends in the middle", "save")),
    # What is no table
    "empty": Bad("t.csv", "", ("empty", "give")),
    "spaces and line ends": Bad("t.csv", " \n\n\n", ("only empty lines", "give")),
    "only a header": Bad("t.csv", "text,label\n", ("line 1", "header", "add rows")),
    "folder": Bad("t.csv", lambda path: path.mkdir(), ("is a folder", "give")),
    "missing": Bad("t.csv", lambda path: None, ("no such file", "check the path")),
    "no permission": Bad("t.csv", closed, ("no permission", "change its mode")),
    "link to itself": Bad("t.csv", loop_of_links, ("link", "give")),
    "link to nothing": Bad("t.csv", lambda p: p.symlink_to("gone"), ("link", "gone")),
    "pipe that nobody writes to": Bad("t.csv", os.mkfifo, ("not a file", "save")),
    "device without end": Bad("t.csv", lambda p: p.symlink_to("/dev/zero"), ("not a file", "save")),
    "workbook named csv": Bad(
        "t.csv", zip_of("xl/workbook.xml", BYTES), ("Excel workbook", "save the sheet as CSV")),
    "archive named csv": Bad("t.csv", zip_of("t.csv", BYTES), ("zip archive", "unpack")),
    "pdf named csv": Bad("t.csv", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", ("PDF", "save")),
    "old workbook named csv": Bad(
        "t.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), ("Excel", "save the sheet")),
    "pickle named csv": Bad("t.csv", pickle.dumps(ROWS), ("pickle", "save")),
    "gz named csv": Bad("t.csv", gzip.compress(BYTES), ("packed by gzip", "with .gz at the end")),
    "bz2 named csv": Bad("t.csv", bz2.compress(BYTES), ("bzip2", "unpack")),
    "parquet named csv": Bad("t.csv", parquet_of({"text": ["a"]}), ("parquet", ".parquet")),
    "picture named csv": Bad("t.csv", b"\x89PNG\r\n\x1a\n" + bytes(99), ("PNG", "give")),
    "page of an error": Bad("t.csv", HTML, ("HTML page", "download")),
    "pointer of git-lfs": Bad("t.csv", LFS, ("git-lfs", "git lfs pull")),
    "database named csv": Bad("t.csv", b"SQLite format 3\0" + bytes(99), ("SQLite", "save")),
    # Packed
    "gz cut short": Bad("t.csv.gz", gzip.compress(BYTES)[:-20], ("damaged or cut off", "again")),
    "xz with a broken byte": Bad(
        "t.csv.xz", lzma.compress(BYTES)[:60] + b"\xff" + lzma.compress(BYTES)[61:],
        ("damaged or cut off", "again")),
    "csv named gz": Bad("t.csv.gz", BYTES, ("damaged or cut off", "again")),
    "zip named gz": Bad("t.csv.gz", zip_of("t.csv", BYTES), ("zip archive", "unpack")),
    # JSON
    "json with a broken line": Bad(
        "t.jsonl", with_line('{"text": "a", "label": }', content="\n".join(LINES)),
        ("line 10", "not JSON", "correct")),
    "json cut short": Bad("t.json", f"[{','.join(LINES)}"[:-9], ("line 1", "not JSON", "correct")),
    "json of a list": Bad(
        "t.jsonl", with_line('["a", "pos"]', content="\n".join(LINES)),
        ("line 10", "a list", "write")),
    "json inside json": Bad(
        "t.jsonl", with_line('{"text": {"en": "a"}, "label": "pos"}', content="\n".join(LINES)),
        ("line 10", "an object", "give")),
    "json with lists of labels": Bad(
        "t.jsonl", with_line('{"text": "a", "label": ["pos"]}', content="\n".join(LINES)),
        ("line 10", "a list", "give")),
    "json by columns": Bad("t.json", '{"text": ["a"], "label": ["b"]}', ("line 1", "give it one")),
    "json with a key twice": Bad(
        "t.jsonl",
        with_line('{"text": "a", "text": "b", "label": "pos"}', content="\n".join(LINES)),
        ("line 10", '"text" twice', "leave")),
    "json with half a character": Bad(
        "t.jsonl", with_line('{"text": "a \\ud83d b", "label": "pos"}', content="\n".join(LINES)),
        (), "encoding"),
    # Columns
    "parquet cut short": Bad(
        "t.parquet", parquet_of({"text": ["a"] * 99, "label": ["b"] * 99})[:-30],
        ("cannot load it", "save the file again")),
    "parquet of other columns": Bad(
        "t.parquet", parquet_of({"a": list(range(99)), "b": [0.5] * 99}),
        ("no label column", "--label-column")),
    "parquet of lists": Bad(
        "t.parquet", parquet_of({"text": [["a"]] * 9}), ("no column of text", "flatten")),
    "labels all empty": Bad("t.csv", CSV.replace(",pos", ",").replace(",neg", ","),
                            ('"label" is empty', "--label-column")),
    "texts all empty": Bad("t.csv", "text,label\n" + ",pos\n,neg\n" * 9,
                           ('"text" has no text', "--text-column")),
    "one column for both": Bad(
        "t.csv", CSV, ("both text and label", "--text-column"), options=BOTH),
    "column that is not there": Bad(
        "t.csv", CSV, ('"lable"', 'did you mean "label"'), options=("--label-column", "lable")),
    "labels of infinity and NaN": Bad(
        "t.csv", "text,label\n" + "".join(f"{t},{('inf', 'nan', '1')[i % 3]}\n"
                                          for i, (t, _) in enumerate(ROWS)), (), "no-label"),
    "one class": Bad("t.csv", CSV.replace(",neg", ",pos"), (), "one-class"),
    "a class for each row": Bad(
        "t.csv", "text,label\n" + "".join(f"{t},user{i}\n" for i, (t, _) in enumerate(ROWS)), (),
        "no-classes", ("--label-column", "label")),
    "numbers for texts": Bad(
        "t.csv", "text,label\n" + "".join(f"{i}.5,{b}\n" for i, (_, b) in enumerate(ROWS)), (),
        "no-text"),
    "numbers and texts mixed": Bad(
        "t.jsonl", "\n".join(json.dumps({"text": 7 if i == 3 else t, "label": b == "pos"})
                             for i, (t, b) in enumerate(ROWS)), (), "short-texts"),
}  # fmt: skip

#: Files that take seconds, or gigabytes once they are unpacked.
LARGE_FILES: dict[str, Bad] = {
    "a line of 20 MB": Bad("t.csv", lambda p: p.write_text(f"{CSV}{'word ' * 4_000_000},pos\n"), (),
                           "long-texts"),
    "ten gigabytes of zeros": Bad("t.csv.gz", zeros, ("line 1", "NUL")),
    "ten gigabytes on a line": Bad("t.csv.gz", one_line_of_zeros, ("line 2", "longer than")),
}  # fmt: skip
