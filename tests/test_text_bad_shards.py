"""Shards that cannot be used, or change: one line that names the shard and what to do."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_files import jsonl_of, message_of, parquet_of, texts_of, write

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import stream

GOOD = jsonl_of(["some good words", "other good words"])
GOOD_PARQUET = parquet_of(["some good words"] * 99)
NOT_UTF8 = pa.array([b"good words", b"a \xff"], pa.binary()).buffers()
BAD_UTF8 = pa.Array.from_buffers(pa.string(), 2, NOT_UTF8)


def parquet_of_columns(**columns: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


# Shards, then the one that is to be named, what is wrong with it, and what to do.
BAD: dict[str, tuple[dict[str, bytes], str, str, str]] = {
    "unknown kind": ({"a_jsonl": GOOD, "b_bin": b"x"}, "b.bin", "is no shard", "**/*.jsonl"),
    "beside packed ones": ({"a_jsonl_gz": gzip.compress(GOOD), "b_bin": b"x"}, "b.bin",
                           "is no shard", "**/*.jsonl.gz"),
    "packed otherwise": ({"a_jsonl_zst": b"x"}, "a.jsonl.zst", "is no shard", "unpack it first"),
    "arrow": ({"a_arrow": b"x"}, "a.arrow", "is no shard", "to_parquet"),
    "labelled kind": ({"a_label": b"x:y z"}, "a.label", "is no shard", "move it out"),
    "two formats": ({"a_jsonl": GOOD, "b_csv": b"text\na\n"}, "b.csv", "is .csv, and", "have one"),
    "empty shard": ({"a_jsonl": GOOD, "b_jsonl": b""}, "b.jsonl", "file is empty", "give a file"),
    "cut gz": ({"a_jsonl": GOOD, "b_jsonl_gz": gzip.compress(GOOD)[:-9]}, "b.jsonl.gz",
               "damaged or cut off", "make it again"),
    "cut jsonl": ({"a_jsonl": GOOD, "b_jsonl": GOOD[:-9]}, "b.jsonl", "line 2: column", "correct"),
    "cut parquet": ({"a_parquet": GOOD_PARQUET, "b_parquet": GOOD_PARQUET[:-9]}, "b.parquet",
                    "damaged or cut off", "make it again"),
    "parquet without its middle": (
        {"a_parquet": GOOD_PARQUET, "b_parquet": b"PAR1" + bytes(300) + GOOD_PARQUET[304:]},
        "b.parquet", "damaged or cut off", "make it again"),
    "packed parquet": ({"a_parquet_gz": gzip.compress(GOOD_PARQUET)}, "a.parquet.gz",
                       "packed parquet", "unpack it"),
    "no column, parquet": (
        {"a_parquet": GOOD_PARQUET, "b_parquet": parquet_of_columns(body=["a b c"])},
        "b.parquet", 'has no column "text" (found: body)', "--text-column"),
    "no column, jsonl": ({"a_jsonl": GOOD, "b_jsonl": b'{"body": "a b"}\n'}, "b.jsonl",
                         'has no column "text" (found: body)', "--text-column"),
    "no column, csv": ({"a_csv": b"id,text\n1,a b c\n", "b_csv": b"id,body\n1,a\n"}, "b.csv",
                       'has no column "text" (found: body, id)', "--text-column"),
    "numbers": ({"a_parquet": GOOD_PARQUET, "b_parquet": parquet_of_columns(text=[1])}, "b.parquet",
                'column "text" holds int64, not strings', "make it a column of strings"),
    "lists": ({"a_parquet": GOOD_PARQUET, "b_parquet": parquet_of_columns(text=[["a"]])},
              "b.parquet", 'column "text" holds list<', "make it a column of strings"),
    "lists from the first": ({"a_parquet": parquet_of_columns(text=[["a"]], id=[1])}, "a.parquet",
                             'left out are text (list<', "string"),
    "lists alone": ({"a_parquet": parquet_of_columns(text=[["a"]])}, "a.parquet",
                    "no column of text or numbers", "flatten"),
    "bytes": ({"a_parquet": parquet_of_columns(text=[b"a b c"], id=[1])}, "a.parquet",
              "left out are text (binary)", "binary"),
    "not UTF-8": ({"a_parquet": GOOD_PARQUET, "b_parquet": parquet_of_columns(text=BAD_UTF8)},
                  "b.parquet", "row 2: column \"text\": byte 0xff is not utf-8", "anew as UTF-8"),
    "lists of json": ({"a_jsonl": GOOD, "b_jsonl": b'{"text": ["a"]}\n'}, "b.jsonl",
                      'line 1: key "text" holds a list', "give it one text"),
    "lists of json from the first": ({"a_jsonl": b'{"text": ["a"], "id": 1}\n'}, "a.jsonl",
                                     "left out are text (a list)", "a list"),
    "labelled lines": ({"a_txt": b"one\n", "b_txt": b"__label__x a\n"}, "b.txt",
                       "labelled lines", "name that file"),
    "bad byte": ({"a_txt": b"one\n", "b_txt": b"two\n\xff\n"}, "b.txt", "line 2: byte 0xff",
                 "--encoding latin-1"),
    "ragged csv": ({"a_csv": b"id,text\n1,a b c\n", "b_csv": b"id,text\n1\n"}, "b.csv",
                   "line 2: has 1 columns", "add the missing"),
    "no text": ({"a_jsonl": b'{"text": null}\n', "b_jsonl": b'{"text": ""}\n'}, "a.jsonl",
                'row 1: column "text" has no text in any row', "--text-column"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_shard_is_named_in_one_line_with_the_fix(tmp_path: Path, case: str) -> None:
    shards, bad, what, fix = BAD[case]
    write(tmp_path, **shards)
    message = message_of(tmp_path)
    assert message.startswith(f"{tmp_path / bad}: ")
    assert what in message
    assert fix in message


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a b c"])] * 2, names=["text", "text"]),
        tmp_path / "a.parquet",
    )
    assert 'a.parquet: has 2 times the column "text"' in message_of(tmp_path)


def test_folders_and_patterns_without_texts_are_named(tmp_path: Path) -> None:
    assert message_of(tmp_path).startswith(f"{tmp_path}: the folder has no file of texts")
    assert "this pattern fits no file of texts" in message_of(f"{tmp_path}/*.jsonl")
    (tmp_path / "README.md").write_text("x")
    assert "the folder has no file of texts" in message_of(tmp_path)


def test_shards_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=GOOD, below__b_jsonl=GOOD)
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    assert message_of(tmp_path).startswith(f"{tmp_path}/gone.jsonl: no such file")
    (tmp_path / "gone.jsonl").unlink()
    for name in ("a.jsonl", "below"):
        (tmp_path / name).chmod(0)
        if not os.access(tmp_path / name, os.R_OK):  # nothing is closed to root
            assert f"{tmp_path}/{name}: no permission to read it" in message_of(tmp_path)
        (tmp_path / name).chmod(0o700)


def test_without_pyarrow_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a_parquet=GOOD_PARQUET)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "need pyarrow, which is not installed" in message_of(tmp_path)


# --- files that change


CHANGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "longer": (lambda folder: write(folder, b_jsonl=GOOD + GOOD), "b.jsonl", "has changed"),
    "of another time": (lambda f: os.utime(f / "b.jsonl", ns=(1, 1)), "b.jsonl", "has changed"),
    "gone": (lambda folder: (folder / "a.jsonl").unlink(), "a.jsonl", "is gone"),
    "new": (lambda folder: write(folder, c__c_jsonl=GOOD), "c/c.jsonl", "is new"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_passes_is_found(tmp_path: Path, change: str) -> None:
    act, name, what = CHANGES[change]
    write(tmp_path, a_jsonl=GOOD, b_jsonl=GOOD)
    texts = texts_of(tmp_path)
    assert len(list(texts)) == 4
    act(tmp_path)
    with pytest.raises(InputError) as caught:
        list(texts)
    assert str(caught.value).startswith(f"{tmp_path}/{name}: {what}")
    assert "since the texts were first read: start again" in str(caught.value)


def test_a_change_while_a_shard_is_read_is_found(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=GOOD, b_jsonl=GOOD)
    texts = iter(texts_of(tmp_path))
    next(texts)
    write(tmp_path, a_jsonl=GOOD + GOOD)
    with pytest.raises(InputError, match=r"a\.jsonl: has changed"):
        list(texts)


def test_a_large_file_that_changes_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_LARGE_BYTES", 0)
    (tmp_path / "a.txt").write_text("one\n")
    texts = texts_of(tmp_path / "a.txt")
    assert list(texts) == ["one"]
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"a\.txt: has changed"):
        list(texts)
