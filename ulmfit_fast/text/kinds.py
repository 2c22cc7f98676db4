"""What a file is by its first bytes, where its name says that it is a table."""

from __future__ import annotations

# First bytes, what begins with them, and what to do with it. None of them begins a table, in
# whatever encoding, except by an odd choice of words.
_BEGINNINGS = (
    (b"\x1f\x8b", "packed by gzip", "name it so, with .gz at the end"),
    (b"\xfd7zXZ\x00", "packed by xz", "name it so, with .xz at the end"),
    (b"BZh", "packed by bzip2", "unpack it first, or pack it as .gz"),
    (b"(\xb5/\xfd", "packed by zstd", "unpack it first, or pack it as .gz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook or Word document",
     "save the sheet as CSV (UTF-8) first"),
    (b"%PDF-", "a PDF", "save its text as .txt first"),
    (b"{\\rtf", "a document in RTF", "save it as .txt first"),
    (b"SQLite format 3\0", "an SQLite database", "save the table as CSV first"),
    (b"PAR1", "a parquet file", "name it so, with .parquet at the end"),
    (b"ARROW1\0\0", "an Arrow file", "save it as parquet or CSV first"),
    (b"\x89HDF\r\n", "an HDF5 file", "save the table as CSV first"),
    (b"\x93NUMPY", "an array of numpy", "save the texts as CSV first"),
    (b"\x89PNG\r\n", "a PNG picture", "give a table of texts"),
    (b"\xff\xd8\xff", "a JPEG picture", "give a table of texts"),
    (b"\x7fELF", "a program", "give a table of texts"),
    (b"version https://git-lfs.github.com/spec/", "a pointer of git-lfs, not the file itself",
     "get the file with git lfs pull"),
)  # fmt: skip
_ZIPPED = (
    (b"xl/", "an Excel workbook", "save the sheet as CSV (UTF-8) first"),
    (b"word/", "a Word document", "save it as .txt first"),
    (b"opendocument.spreadsheet", "an OpenDocument sheet", "save the sheet as CSV (UTF-8) first"),
    (b"opendocument.text", "an OpenDocument text", "save it as .txt first"),
    (b"[Content_Types].xml", "an Excel workbook or Word document",
     "save the sheet as CSV (UTF-8) first"),
    (b"", "a zip archive", "unpack it first"),
)  # fmt: skip
_PAGES = (b"<!doctype html", b"<html")
# Where a tar archive says that it is one.
_TAR_AT, _TAR = 257, b"ustar"
#: So many first bytes are enough.
N_BYTES = 4096


def kind_by_content(start: bytes, expected: str) -> tuple[str, str] | None:
    """Tell what a file is that is no table of the kind its name says.

    Args:
        start: its first N_BYTES, unpacked.
        expected: one of `sources.FORMATS`.

    Returns:
        what it is, and what to do with it; None for all that may be such a table.
    """
    if expected == "parquet" and start.startswith(b"PAR1"):
        return None
    for beginning, what, advice in _BEGINNINGS:
        if start.startswith(beginning) and (beginning != b"BZh" or b"1AY&SY" in start[:12]):
            return what, advice
    if start.startswith(b"PK\x03\x04"):
        return next((what, advice) for mark, what, advice in _ZIPPED if mark in start)
    if start[_TAR_AT:].startswith(_TAR):
        return "a tar archive", "unpack it first"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, which could run code", "save the table as CSV, JSON or parquet"
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(_PAGES) and expected not in ("txt", "label"):
        return "an HTML page, perhaps of an error", "download the file itself"
    if head.startswith(b"<?xml") and expected not in ("txt", "label"):
        return "an XML file", "save the table as CSV or JSON first"
    return None
