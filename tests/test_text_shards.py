"""A folder or a pattern of shards gives the texts of one file, in order."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import TEXTS, WRITERS, jsonl_of, message_of, parquet_of, texts_of, write

from ulmfit_fast.text import SkippedRow, parquet, read_table, stream, stream_texts
from ulmfit_fast.text.shards import name_of_source

GOOD = jsonl_of(["some good words", "other good words"])
STRINGS = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.one_of(st.none(), st.sampled_from(TEXTS), st.text(st.characters(codec="utf-8",
                  exclude_characters="\0\r")))
    ),
    cuts=st.lists(st.integers(0, 12), max_size=12),
    kind=st.sampled_from(sorted(WRITERS)),
)  # fmt: skip
def test_cut_into_shards_the_texts_are_those_of_one_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str | None], cuts: list[int], kind: str
) -> None:
    """Any cut, in every format; a jsonl file read whole says what the texts are."""
    place, rows = tmp_path_factory.mktemp("cut"), [*rows, "the end"]
    borders = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    (place / "whole.jsonl").write_bytes(jsonl_of(rows))
    (place / "shards").mkdir()
    for i, (begin, end) in enumerate(pairwise(borders)):
        (place / "shards" / f"{i}-of-{len(borders)}.{kind}").write_bytes(
            WRITERS[kind](rows[begin:end])
        )
    table = read_table(place / "whole.jsonl", text_columns=["text"], labelled=False)
    texts = texts_of(place / "shards", text_columns=["text"])
    assert list(texts) == list(texts) == table.texts
    assert texts.n_skipped == len(texts.skipped) == len(table.skipped)
    assert texts.n_files == len(borders) - 1


@pytest.mark.parametrize("kind", WRITERS)
def test_formats_agree_and_name_the_shard_of_a_row_without_text(tmp_path: Path, kind: str) -> None:
    for i, part in enumerate((TEXTS[:2], TEXTS[2:])):
        (tmp_path / f"{i}.{kind}").write_bytes(WRITERS[kind](part))
    texts = texts_of(tmp_path)
    assert list(texts) == [TEXTS[0], TEXTS[3], TEXTS[5]]
    assert (len(texts), texts.n_words) == (3, 13)
    assert [Path(row.file).name for row in texts.skipped] == [f"{i}.{kind}" for i in (0, 1, 1)]
    if kind == "parquet":
        assert texts.skipped[0] == SkippedRow(2, "text", "missing value", f"{tmp_path}/0.parquet")


def test_shards_come_in_natural_order_of_their_paths(tmp_path: Path) -> None:
    names = ("b__2_txt", "b__10_txt", "10_txt", "9_txt", "a__deep__1_txt", "B__1_txt")
    write(tmp_path, **{name: name.encode() for name in names})
    order = [*("9_txt", "10_txt", "B__1_txt", "a__deep__1_txt"), "b__2_txt", "b__10_txt"]
    assert list(texts_of(tmp_path)) == order
    assert list(texts_of(f"{tmp_path}/**/1*.txt")) == [*order[1:4], "b__10_txt"]
    assert list(texts_of(f"{tmp_path}/[bB]")) == [order[2], *order[4:]]


def test_lines_of_shards_are_texts_and_documents_stay_whole(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_txt=b"one\n\ntwo",
        b_txt=b"<doc id=1>\nl1\nl2\n</doc>\n",
        c_txt_gz=gzip.compress(b"z"),
    )
    assert list(texts_of(tmp_path)) == ["one", "two", "l1\nl2", "z"]


def test_what_stands_beside_shards_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, part_jsonl=jsonl_of(TEXTS))
    for name in (
        *("README.md", "LICENSE", "_SUCCESS", ".part.jsonl.crc", "part.jsonl.crc", "SHA256SUMS"),
        *(
            "part.jsonl.md5",
            "checksums.txt",
            ".cache/x.bin",
            "_temporary/y.jsonl",
            "dataset_info.json",
        ),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert len(texts_of(tmp_path)) == 3


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, blobs__x_txt=b"linked", data__a_txt=b"own")
    (tmp_path / "data" / "b.txt").symlink_to(tmp_path / "blobs" / "x.txt")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "blobs")
    assert list(texts_of(tmp_path / "data")) == ["own", "linked", "linked"]


def test_columns_are_chosen_once_by_the_first_shard_with_a_text(tmp_path: Path) -> None:
    rows = [{"note": "n", "body": f"{i} words of a text"} for i in range(3)]
    empty = b'{"note": null, "body": " "}\n'
    write(tmp_path, a_jsonl=empty, b_jsonl="\n".join(map(json.dumps, rows)).encode())
    texts = texts_of(tmp_path)
    assert (len(texts), texts.n_skipped, texts.text_columns) == (3, 1, ("body",))
    assert list(texts_of(tmp_path, text_columns=["note"])) == ["n"] * 3


def test_header_and_delimiter_of_the_first_csv_are_those_of_all(tmp_path: Path) -> None:
    write(tmp_path, a_csv=b"1;a b\n2;c d\n", b_csv=b"note;e, f\n")
    assert list(texts_of(tmp_path, text_columns=["1"])) == ["a b", "c d", "e, f"]
    write(tmp_path, a_csv=b"note;text\ny;c d\n")
    assert message_of(tmp_path).startswith(f"{tmp_path}/b.csv: line 1 is taken as the header")
    write(tmp_path, b_csv=b"note;e, f\nx;y\n")
    assert message_of(tmp_path).startswith(f'{tmp_path}/b.csv: has no column "text"')


def test_nested_values_beside_the_text_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=b'{"meta": {"a": 1}, "text": "fine"}\n{"text": "more", "tags": []}\n')
    assert list(texts_of(tmp_path)) == ["fine", "more"]


@pytest.mark.parametrize(
    "kind", STRINGS, ids=str
)  # fmt: skip
def test_every_kind_of_string_of_parquet_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path, a_parquet=parquet_of([]), b_parquet=parquet_of([None], pa.null()),
          c_parquet=parquet_of(TEXTS, kind))  # fmt: skip
    texts = texts_of(tmp_path)
    assert list(texts) == [TEXTS[0], TEXTS[3], TEXTS[5]]
    assert texts.n_skipped == 4


def test_a_large_parquet_file_is_streamed_as_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_of(TEXTS))
    assert stream_texts(str(path)) is None
    monkeypatch.setattr(stream, "_LARGE_BYTES", 4 * path.stat().st_size)
    table, texts = read_table(path, labelled=False), texts_of(path)
    assert (list(texts), texts.skipped) == (table.texts, table.skipped)
    assert texts.is_large


def test_rows_of_parquet_are_few_at_a_time_where_they_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [f"{i}" * 10_000 for i in range(9)]
    write(tmp_path, a_parquet=parquet_of(long, rows_a_group=9))
    asked: list[int] = []
    read = pq.ParquetFile.iter_batches

    def iter_batches(file: pq.ParquetFile, batch_size: int, **options: object) -> object:
        asked.append(batch_size)
        return read(file, batch_size=batch_size, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    monkeypatch.setattr(parquet, "_BYTES_AT_A_TIME", 25_000)
    assert list(texts_of(tmp_path)) == long
    assert asked[-1] == 2


def test_a_run_has_the_name_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, wiki__data__a_jsonl=GOOD)
    names = {
        **{"wiki": "wiki", "wiki/": "wiki", "wiki/data/*.jsonl": "data", "*/*/*.jsonl": ""},
        **{"wiki/data/a.jsonl": "a", ".": "", "": ""},
    }
    assert {source: name_of_source(source) for source in names} == names
