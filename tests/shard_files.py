"""Shards of texts in every format, and what comes out of reading them, shared by tests."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import TextStream, stream_texts

Texts = Sequence[str | None]
TEXTS: Texts = ["one fine film", None, "", 'a "bad" one,\nof two lines', "nan", "das Œuvre ☃ 𝄞"]


def jsonl_of(texts: Texts) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()


def csv_of(texts: Texts) -> bytes:
    file = io.StringIO()
    rows = [("id", "text"), *((str(i), t or "") for i, t in enumerate(texts))]
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return file.getvalue().encode()


def parquet_of(texts: Texts, kind: pa.DataType | None = None, rows_a_group: int = 2) -> bytes:
    column = pa.array(texts, kind or pa.string())
    table = pa.table(
        {"id": pa.array(range(len(texts))), "text": column, "tags": [[1]] * len(texts)}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows_a_group)
    return bytes(sink.getvalue())


WRITERS: dict[str, Callable[[Texts], bytes]] = {
    "jsonl": jsonl_of,
    "jsonl.gz": lambda texts: gzip.compress(jsonl_of(texts), 1, mtime=0),
    "json.xz": lambda texts: lzma.compress(jsonl_of(texts), preset=0),
    "csv": csv_of,
    "parquet": parquet_of,
}


def write(folder: Path, **shards: bytes) -> None:
    """Write shards, whose names have __ for / and _ before an ending for its dot."""
    for name, content in shards.items():
        path = folder / name.replace("__", "/").replace("_gz", ".gz").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def texts_of(source: Path | str, **options: object) -> TextStream:
    texts = stream_texts(str(source), **options)  # type: ignore[arg-type]
    assert texts is not None
    return texts


def message_of(source: Path | str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        list(texts_of(source, **options))
    message = str(caught.value)
    assert message.isprintable()
    return message
