"""A large file read at every pass: the texts of read_table, its errors, and memory that stays."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import json_of, succeed
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import (
    Corpus,
    TextStream,
    read_table,
    stream,
    stream_texts,
    train_tokenizer,
    workers,
)

ROWS = [("a fine, long film", "pos"), ("", "neg"), ("nan", "neg"), ('"so" it\nwent', "pos")]
DOCUMENTS = """\
<doc id="1">
first line

second line
</doc>
<doc id="2">
</doc>
<doc id="3">
other
</doc>
"""


@pytest.fixture(autouse=True)
def _every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LARGE_BYTES", 0)


def csv_of(delimiter: str) -> str:
    rows = [("title", "review", "label"), *(("a title", text, label) for text, label in ROWS)]
    quoted = [[f'"{f.replace(chr(34), 2 * chr(34))}"' for f in row] for row in rows]
    return "\n\n" + "".join(f"{delimiter.join(row)}\n" for row in quoted)


FILES = {
    "lines.txt": "one text\n\n  \nanother\nnan\nthe last",
    "wiki.txt": DOCUMENTS,
    "rows.csv": csv_of(","),
    "rows.tsv": csv_of("\t"),
    "no_header.csv": "1,a fine film\n2,\n2,a bad film\n",
    "one_column.csv": "text\nfine film\n\nbad film\n",
    "rows.jsonl": "\n".join(json.dumps({"label": lb, "text": t}) for t, lb in ROWS) + "\n\n",
    "late.jsonl": '{"label": 1}\n{"text": "late"}\n{"text": null}\n{"text": 7}\n',
}


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_texts_are_those_of_the_whole_table(tmp_path: Path, name: str, is_packed: bool) -> None:
    path = tmp_path / (name + ".gz" * is_packed)
    content = FILES[name].encode()
    path.write_bytes(gzip.compress(content, mtime=0) if is_packed else content)
    table, texts = read_table(path, labelled=False), stream_texts(str(path))
    assert texts is not None
    for _ in range(2):
        assert list(texts) == table.texts
    assert len(texts) == len(table.texts)
    assert texts.n_words == sum(len(text.split()) for text in table.texts)
    assert texts.skipped == table.skipped
    assert texts.n_skipped == len(table.skipped)
    assert texts.source == table.source
    assert texts.guessed_header == table.guessed_header


def test_columns_and_encoding_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\né,2,x\n", encoding="latin-1")
    options = {"text_columns": ["c", "a"], "encoding": "latin-1", "header": True}
    assert list(stream_texts(str(path), **options)) == ["xxfld 1 x xxfld 2 é"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bytes.txt", b"fine\n\xff\n"),
        ("nul.txt", b"fine\n\0\n"),
        ("open.txt", b"<doc >\nfine\n</doc>\n<doc >\n"),
        ("outside.txt", b"<doc >\nfine\n</doc>\ntext\n"),
        ("twice.txt", b"<doc >\nfine\n</doc>\n</doc>\n"),
        ("blank.txt", b"\n \n"),
        ("nan.txt", b"nan\n"),
        ("ragged.csv", b"text,label\na,b\na,b,c\n"),
        ("quote.csv", b'text,label\na,"b\n'),
        ("open.jsonl", b'{"text": "a"}\n{"text"\n'),
        ("list.jsonl", b'{"text": "a"}\n[1]\n'),
        ("nested.jsonl", b'{"text": "a"}\n{"text": []}\n'),
        ("missing.jsonl", b'{"text": "  "}\n'),
        ("packed.txt.gz", gzip.compress(b"fine film\n" * 99, mtime=0)[:-9]),
    ],
)
def test_errors_are_those_of_the_whole_table(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as whole:
        read_table(tmp_path / name, labelled=False)
    with pytest.raises(InputError) as streamed:
        list(stream_texts(str(tmp_path / name)) or ())
    assert str(streamed.value) == str(whole.value)


@pytest.mark.parametrize("name", ["labels.txt", "a.label", "a.json"])
def test_other_files_are_not_streamed(tmp_path: Path, name: str) -> None:
    content = '[{"text": "a b"}]' if name.endswith("json") else "__label__a text\n"
    (tmp_path / name).write_text(content)
    assert stream_texts(str(tmp_path / name)) is None


def test_a_small_file_is_not_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LARGE_BYTES", 40)
    (tmp_path / "a.txt").write_text("x" * 39)
    (tmp_path / "b.txt").write_text("x" * 40)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"x" * 300, mtime=0))
    names = [name for name in ("a.txt", "b.txt", "c.txt.gz") if stream_texts(str(tmp_path / name))]
    assert names == ["b.txt", "c.txt.gz"]


def test_the_list_of_rows_without_text_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_MOST_LISTED", 2)
    lines = ["nan"] * 5 + [f"{i} a text of words" for i in range(9)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    texts = stream_texts(str(tmp_path / "a.txt"))
    assert texts is not None
    assert len(list(texts)) == 9
    assert [row.row for row in texts.skipped] == [1, 2]
    assert texts.n_skipped == 5


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=3)), st.integers(), st.floats(0, 1))
def test_a_split_keeps_equal_texts_together(texts: list[str], seed: int, share: float) -> None:
    train, valid = TextStream(lambda: iter(texts), "a").split(share, seed)
    held_out = list(valid)
    assert len(set(held_out)) == len(held_out) == len(valid)
    assert [t for t in texts if t not in set(held_out)] == list(train) == list(train)


def test_a_split_holds_about_the_share_out_and_depends_on_the_seed() -> None:
    texts = TextStream(lambda: map(str, range(20_000)), "numbers")
    parts = [texts.split(0.05, seed)[1] for seed in (0, 0, 1)]
    assert all(900 < len(part) < 1_100 for part in parts)
    assert list(parts[0]) == list(parts[1])
    assert len(set(parts[0]) & set(parts[2])) < 100


@pytest.mark.parametrize("kind", ["word", "subword"])
def test_memory_does_not_grow_with_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Vocabulary, key and ids of a corpus are made in the memory of some blocks of texts."""
    monkeypatch.setattr(workers, "_CHARS_AT_A_TIME", 20_000)
    monkeypatch.setattr(workers, "_CHARS_FOR_PROCESSES", 40_000)

    def peak(n_texts: int) -> int:
        def read() -> Iterator[str]:
            return (f"{i % 7} film that was good " * 50 for i in range(n_texts))

        tracemalloc.start()
        texts = TextStream(read, "film")
        tokenizer = train_tokenizer(texts, kind=kind, processes=1)
        corpus = Corpus.build(texts, tokenizer, tmp_path / str(n_texts), processes=1)
        assert len(corpus) == len(texts) == n_texts
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    peak(10)  # tables that are made once
    assert peak(300) < peak(60) + 100_000


def test_pretraining_reads_a_large_file_as_a_stream(tmp_path: Path) -> None:
    words = ["good", "film", "bad", "story", "actor", "plays", "a", "the", "told", "by"]
    lines = [" ".join(words[(i * k) % 10] for k in range(1, 9)) + f" {i}" for i in range(300)]
    (tmp_path / "corpus.txt").write_text("\n".join([*lines, "nan"]))
    said = succeed(
        *("pretrain", tmp_path / "corpus.txt", "--out", tmp_path / "run", "--size", "tiny"),
        *("--epochs", "1", "--cache", tmp_path / "cache"),
    ).stdout
    assert "documents, and" in said
    assert "skipped   1 row" in said
    assert (tmp_path / "run" / "language_model" / "config.json").is_file()
    again = succeed(
        *("pretrain", tmp_path / "corpus.txt", "--out", tmp_path / "run", "--overwrite"),
        *("--size", "tiny", "--epochs", "1", "--cache", tmp_path / "cache", "--json"),
    )
    assert json_of(again)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_one_large_document_cannot_be_split(tmp_path: Path) -> None:
    from cli_runs import run

    (tmp_path / "one.txt").write_text("one document\n")
    result = run("pretrain", tmp_path / "one.txt", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "one document only" in result.stderr
