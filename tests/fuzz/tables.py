"""Tables of texts: csv, tsv, json, jsonl, txt and labelled lines, in every encoding, packed or not.

csv goes through the strict reader and its stream; `datasets`, which reads again what that accepted,
takes 50 ms a file and is run on a sample only (test_fuzz_targets.py).
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Mapping
from itertools import chain

from fuzz.draws import Draw, edited_bytes, refuses
from fuzz.places import place
from ulmfit_fast.text.csv_check import check_csv, stream_csv
from ulmfit_fast.text.json_rows import read_json
from ulmfit_fast.text.lines import read_lines
from ulmfit_fast.text.sources import TableFile, find_file
from ulmfit_fast.text.table import RawTable, names_of_csv

INSTRUMENTED = ["ulmfit_fast.text", "csv", "json"]
FORMATS = ("csv", "tsv", "jsonl", "json", "txt", "label")
ENCODINGS = (None, "latin-1", "utf-16", "utf-8", "shift_jis", "utf-7", "idna", "punycode", "utf-32",
             "cp037", "hz", "unicode_escape", "raw_unicode_escape", "x\ny", "\0")  # fmt: skip
GOOD = {
    "csv": 'label,text\na,"some, ""quoted"" words"\nb,other words\n',
    "tsv": "label\ttext\na\tsome words\nb\tother words\n",
    "jsonl": '{"label": "a", "text": "some words"}\n{"label": 2, "text": "caf\\u00e9"}\n',
    "json": '[{"label": "a", "text": "some words"}, {"text": null, "x": 1.5}]',
    "txt": "some words\n<doc id=1>\nother words\n</doc>\n__label__x y\n",
    "label": "DESC:manner How did it go ?\n__label__good some words\n",
}
UTF_8 = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1")
PACKED = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".xz": lambda data: lzma.compress(data, preset=0),
}


def seeds() -> list[bytes]:
    """Return every format raw, and edits of it in every encoding."""
    raw = [bytes([k, 0, 0, 0]) + text.encode() for k, text in enumerate(GOOD.values())]
    edits = [
        bytes([k, packed, asked, 1 + coded, 0, place_, what, 34, 9])
        for k in range(len(FORMATS))
        for packed in (0, 254, 255)
        for asked in (0, 1, 2)
        for coded in range(5)
        for place_, what in ((0, 0), (20, 1), (30, 2), (9, 4))
    ]
    return [*raw, *edits]


def run(data: bytes) -> bool:
    """Read the table that bytes describe; return whether it was refused."""
    draw = Draw(data)
    kind = draw.pick(FORMATS)
    ending = {254: ".gz", 255: ".xz"}.get(draw.byte(), "")
    asked = draw.byte()
    encoding = ENCODINGS[asked] if asked < len(ENCODINGS) else None
    how = draw.below(8)
    if 1 <= how <= len(UTF_8):
        content = edited_bytes(GOOD[kind].encode(UTF_8[how - 1]), draw)
    else:
        content = draw.rest()
    packed = PACKED[ending](content)
    if how == 7:
        packed = edited_bytes(packed, Draw(content[:16]))
    path = place("tables") / f"t.{kind}{ending}"
    path.write_bytes(packed)
    header = (None, True, False)[how % 3]
    return refuses(lambda: read(find_file(path), encoding, header))


def read(file: TableFile, encoding: str | None, header: bool | None) -> None:
    """Read a file as load_table does, csv without `datasets`, and choose its columns."""
    if file.format in ("csv", "tsv"):
        shape = check_csv(file, encoding, header)
        rows: list[tuple[int, Mapping[str, str | None]]] = list(stream_csv(file, shape))
        columns = {name: [values[name] for _, values in rows] for name in shape.names}
        assert [n for n, _ in rows] == list(shape.lines)
        own, guessed = names_of_csv(list(shape.names), header)
        table = RawTable(file.name, columns, shape.lines, own, guessed)
    elif file.format in ("json", "jsonl"):
        table = RawTable(file.name, *read_json(file, encoding))
    else:
        table = RawTable(file.name, *read_lines(file, encoding), has_names=False)
    assert len(set(map(len, chain(table.columns.values(), [table.rows])))) == 1
    chosen = table.choose()
    assert chosen.texts
    assert all(text.strip() for text in chosen.texts)
