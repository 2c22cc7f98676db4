"""Tables that are good: every format, compression and encoding gives the same texts and labels."""

from __future__ import annotations

import gzip
import json
import lzma
import socket
import time
import tracemalloc
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import SkippedRow, loaders, read_table

ROWS = [("01", "NA"), ("a,b", 'He said "no",\nthen left'), ("a,b", "naïve 文"), ("01", "null")]
LABELS, TEXTS = [label for label, _ in ROWS], [text for _, text in ROWS]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a local file opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def separated(delimiter: str, rows: list[tuple[str, str]] = ROWS, end: str = "\n") -> str:
    lines = [("label", "text"), *rows]
    return "".join(delimiter.join(map(quoted, line)) + end for line in lines)


def objects() -> list[dict[str, str]]:
    return [{"label": label, "text": text} for label, text in ROWS]


CONTENT = {
    "comma.csv": separated(",").encode(),
    "semicolon.csv": separated(";").encode(),
    "bar.csv": separated("|").encode(),
    "tab.csv": separated("\t").encode(),
    "table.tsv": separated("\t").encode(),
    "windows.csv": separated(",", end="\r\n").encode(),
    "bom.csv": separated(",").encode("utf-8-sig"),
    "utf-16.csv": separated(",").encode("utf-16"),
    "odd [1]*name::x.csv": separated(",").encode(),
    "packed.csv.gz": gzip.compress(separated(",").encode()),
    "packed.csv.xz": lzma.compress(separated(",").encode()),
    "list.json": json.dumps(objects(), indent=1).encode(),
    "lines.json": "\n".join(map(json.dumps, objects())).encode(),
    "lines.jsonl": "\n".join(map(json.dumps, objects())).encode(),
    "bom.jsonl": "\n".join(map(json.dumps, objects())).encode("utf-8-sig"),
    "packed.jsonl.gz": gzip.compress("\n".join(map(json.dumps, objects())).encode()),
}


@pytest.mark.parametrize("name", CONTENT)
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENT[name])
    table = read_table(path)
    assert table.texts == TEXTS
    assert table.labels == LABELS
    assert (table.text_columns, table.label_column) == (("text",), "label")
    assert table.skipped == []
    assert table.source == str(path)


def test_parquet_and_data_sets_give_the_same_table(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})
    path = tmp_path / "table.parquet"
    dataset.to_parquet(str(path))
    for source in (path, dataset, dataset.class_encode_column("label")):
        table = read_table(source)
        assert (table.texts, table.labels) == (TEXTS, LABELS)
        assert table.rows == [1, 2, 3, 4]
    assert read_table(dataset.select([2, 0])).texts == [TEXTS[2], TEXTS[0]]


def test_nothing_is_left_behind_and_progress_bars_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, table = tmp_path / "tmp", tmp_path / "table.csv"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    table.write_text(separated(","))
    shown = datasets.are_progress_bars_disabled()
    read_table(table)
    assert list(temporary.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "tmp"]
    assert datasets.are_progress_bars_disabled() == shown


field = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=20)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.tuples(field, field, field), min_size=1, max_size=6))
def test_any_well_formed_csv_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    lines = [",".join(map(quoted, row)) for row in [("label", "text", "id"), *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    kept = [(a.strip() or None, b) for a, b, _ in rows if b.strip() and b not in ("nan", "NaN")]
    if not kept:
        with pytest.raises(InputError, match="has no text in any row"):
            read_table(path)
        return
    table = read_table(path)
    assert table.texts == [text for _, text in kept]
    assert table.labels == [None if a in ("nan", "NaN") else a for a, _ in kept]
    assert len(table.skipped) == len(rows) - len(kept)


def test_rows_are_lines_of_the_file_and_skipped_rows_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\nlabel,text\nx,"two\nlines"\n\ny,  \nx,\n,no label\ny,NaN\nx,last\n')
    table = read_table(path)
    assert table.texts == ["two\nlines", "no label", "last"]
    assert table.labels == ["x", None, "x"]
    assert table.rows == [3, 8, 10]
    assert table.skipped == [
        SkippedRow(6, "text", "white space only"),
        SkippedRow(7, "text", "empty text"),
        SkippedRow(9, "text", "NaN"),
    ]


def test_a_single_column_may_have_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\ntext\nhello there\n\n""\n   \n"a, b"\n')
    table = read_table(path)
    assert table.texts == ["hello there", "a, b"]
    assert table.rows == [3, 7]
    assert [skipped.row for skipped in table.skipped] == [4, 5, 6]


def test_json_values_become_text_and_missing_keys_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text(
        '{"text": "2020-01-01", "label": 1}\n{"text": null, "label": true}\n'
        '{"label": 2.5, "text": "b"}\n\n{"text": "c", "more": NaN}\n'
    )
    table = read_table(path)
    assert table.texts == ["2020-01-01", "b", "c"]
    assert table.labels == ["1", "2.5", None]
    assert table.rows == [1, 3, 5]
    assert table.skipped == [SkippedRow(2, "text", "missing value")]


def test_several_text_columns_become_marked_fields(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("title,description,label\nA,b b,x\n,c,y\nD,,x\n,,y\n")
    table = read_table(path)
    assert table.text_columns == ("title", "description")
    assert table.texts == ["xxfld 1 A xxfld 2 b b", "xxfld 1  xxfld 2 c", "xxfld 1 D xxfld 2 "]
    assert [skipped.row for skipped in table.skipped] == [5]
    assert read_table(path, text_columns=["description"]).texts == ["b b", "c"]


def numbered(line: str) -> str:
    """Write nine rows of two kinds."""
    return "".join(line.format(i=i, number=i % 2, kind="pn"[i % 2]) + "\n" for i in range(9))


@pytest.mark.parametrize(
    ("content", "text", "label"),
    [
        ("Review,Sentiment\ngood,1\nbad,0\n", ("Review",), "Sentiment"),
        ("id,rating,text,label\n1,9,good,p\n2,1,bad,n\n", ("text",), "label"),
        ("id,text\n1,good\n2,bad\n", ("text",), None),
        (",text,label\n0,good,p\n1,bad,n\n", ("text",), "label"),
        ("kind,words\n" + numbered("{kind},row {i} of words"), ("words",), "kind"),
        (numbered("{number},a title {i},a longer text with number {i}"), ("1", "2"), "0"),
        (numbered("a text with number {i},{kind}"), ("0",), "1"),
        ("kind,a,b\n" + numbered("{kind},row {i} it,{i} " + "much longer " * 9), ("b",), "kind"),
        ("text\nsome words\n", ("text",), None),
        ("note\nsome words\n", ("note",), None),
        ("note\n1\nword\n", ("note",), None),
        ("label,text\na,1\nb,2\n", ("text",), "label"),
    ],
)  # fmt: skip
def test_columns_are_found(
    tmp_path: Path, content: str, text: tuple[str, ...], label: str | None
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    table = read_table(path)
    assert (table.text_columns, table.label_column) == (text, label)


def test_columns_can_be_named_and_labels_ignored(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("label,kind,text,note\na,x,b,c\n")
    table = read_table(path, text_columns=["note"], label_column="kind")
    assert (table.texts, table.labels) == (["c"], ["x"])
    table = read_table(path, labelled=False)
    assert (table.texts, table.labels, table.label_column) == (["b"], [None], None)
    assert read_table(path, labelled=False, label_column="gone").labels == [None]


def test_lines_of_every_kind_are_read(tmp_path: Path) -> None:
    def read(name: str, content: str):
        (tmp_path / name).write_text(content)
        return read_table(tmp_path / name)

    trec = read("a.label", "LOC:city Where is it ?\n\nHUM:ind Who : me ?\n")
    assert (trec.texts, trec.labels) == (["Where is it ?", "Who : me ?"], ["LOC", "HUM"])
    fine = read_table(tmp_path / "a.label", label_column="fine_label")
    assert fine.labels == ["LOC:city", "HUM:ind"]
    fasttext = read("b.txt", "__label__x a b\n__label__y-z c\n")
    assert (fasttext.texts, fasttext.labels) == (["a b", "c"], ["x", "y-z"])
    assert read("c.label", "__label__x a b\n").labels == ["x"]
    plain = read("d.txt", "\n one \n\n\ntwo\u2028still two\n")
    assert (plain.texts, plain.rows, plain.skipped) == ([" one ", "two\u2028still two"], [2, 5], [])
    documents = read("e.txt", '<doc id="1">\nA\n\nb c\n</doc>\n<doc id="2">\nD\n</doc>\n')
    assert (documents.texts, documents.rows) == (["A\nb c", "D"], [1, 6])


def test_an_encoding_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("label,text\na,café\n".encode("latin-1"))
    assert read_table(path, encoding="latin-1").texts == ["café"]


def test_a_line_of_ten_megabytes_is_read_in_bounded_memory_and_time(tmp_path: Path) -> None:
    text = "word " * 2_000_000
    for name, content in (
        ("long.csv", f"label,text\na,{text}\nb,short\n"),
        ("long.jsonl", json.dumps({"label": "a", "text": text}) + '\n{"text": "short"}'),
        ("long.txt", f"{text}\nshort\n"),
    ):
        path = tmp_path / name
        path.write_text(content)
        tracemalloc.start()
        start = time.perf_counter()
        table = read_table(path)
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(table.texts[0]) == 10_000_000
        assert table.texts[1] == "short"
        assert seconds < 15
        # The csv module alone holds a field at four bytes a character.
        assert peak < 10 * len(text), name


def test_hub_names_are_loaded_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        asked.append((name, split))
        features = datasets.Features(
            {
                "label": datasets.ClassLabel(names=["neg", "pos"]),
                "text": datasets.Value("string"),
                "parts": [datasets.Value("string")],
            }
        )
        rows = {"label": [1, -1, 0], "text": ["a", "b", None], "parts": [[], [], []]}
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read_table("hf:owner/name:test")
    assert (table.texts, table.labels) == (["a", "b"], ["pos", None])
    assert table.skipped == [SkippedRow(3, "text", "missing value")]
    read_table("hf:imdb")
    assert asked == [("owner/name", "test"), ("imdb", "train")]


def test_two_readers_that_disagree_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("label,text\na,b\nc,d\n")

    def damaged(dataset: datasets.Dataset, where: str):
        return {"label": ["a", "c"], "text": ["b", "dd"]}, range(1, 3)

    monkeypatch.setattr(loaders, "load_dataset_columns", damaged)
    with pytest.raises(InputError, match='column "text": two readers disagree'):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "n_texts", "labels", "text_columns"),
    [
        ("trec_TREC_10.label.xz", 500, 6, ("text",)),
        ("ag_news_test.csv.xz", 7_600, 4, ("1", "2")),
        ("ag_news_train_20k.csv.xz", 20_000, 4, ("title", "description")),
        ("imdb_train.csv.xz", 25_000, 2, ("text",)),
        ("wikitext-2_valid.txt.xz", 2_461, 1, ("text",)),
    ],
)
def test_real_files_are_read_as_they_are(
    shared_data: Path, name: str, n_texts: int, labels: int, text_columns: tuple[str, ...]
) -> None:
    table = read_table(shared_data / name)
    assert len(table.texts) == n_texts
    assert len(set(table.labels)) == labels
    assert table.text_columns == text_columns
    assert table.skipped == []


def test_trec_train_needs_and_names_its_encoding(shared_data: Path) -> None:
    path = shared_data / "trec_train_5500.label.xz"
    with pytest.raises(InputError, match=r"line 66: byte 0xf0 at offset 3695.*--encoding latin-1"):
        read_table(path)
    assert len(read_table(path, encoding="latin-1").texts) == 5_452
