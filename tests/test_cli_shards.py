"""`pretrain`, `train` and `lr-find` on folders and patterns of shards."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from cli_runs import FILLING, SHORT, files_under, json_of, run, succeed, write_rows
from shard_files import parquet_of

from ulmfit_fast import InputError
from ulmfit_fast.commands.choices import Settings
from ulmfit_fast.commands.data import Files, read_training_data
from ulmfit_fast.commands.train_options import TrainOptions, read_record, write_record
from ulmfit_fast.text import TextStream, stream

TEXTS = [f"{' '.join(random.Random(i).sample(FILLING, 9))} {i}" for i in range(80)]
ONE_EPOCH = ("--size", "tiny", "--epochs", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with corpus/ (shards of parquet), and their rows as corpus.jsonl."""
    monkeypatch.chdir(tmp_path)
    rows: list[str | None] = [*TEXTS[:50], None, *TEXTS[50:]]
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(rows)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    shards = {"data/train-9": rows[:30], "data/train-10": rows[30:60], "more/train-1": rows[60:]}
    for name, part in shards.items():
        path = tmp_path / "corpus" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parquet_of(part))
    (tmp_path / "corpus" / "README.md").write_text("a data set")
    return tmp_path


@pytest.mark.parametrize("is_large", [False, True])
def test_pretraining_on_shards_is_that_on_one_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(stream, "_LARGE_BYTES", 0)
    results = {}
    for source in ("corpus", "corpus.jsonl"):
        options = ("--out", f"out-{source}", "--cache", f"cache-{source}")
        said = succeed("pretrain", source, *ONE_EPOCH, *options).stdout
        files = files_under(folder / f"out-{source}")
        assert ("corpus: 3 files, text from 'text'" in said) == (source == "corpus")
        assert "skipped   1 row, listed in" in said
        weights = files["language_model/model.safetensors"]
        # An entry of the cache has the SHA-256 of texts and tokenizer for a name.
        results[source] = (files_under(folder / f"cache-{source}"), weights)
    assert results["corpus"] == results["corpus.jsonl"]
    assert len(results["corpus"][0]) == 6
    skipped = list(csv.reader((folder / "out-corpus" / "skipped.csv").open()))
    assert skipped[1] == ["corpus/data/train-10.parquet", "21", "text", "missing value"]


def test_a_run_on_a_folder_or_a_pattern_has_its_name(folder: Path) -> None:
    succeed("pretrain", "corpus/data", *ONE_EPOCH)
    assert (folder / "runs" / "data" / "run.json").is_file()
    result = run("pretrain", "corpus/data/*.parquet", *ONE_EPOCH)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "runs/data: this folder exists" in result.stderr
    result = run("pretrain", "corpus/data/*.json", *ONE_EPOCH)
    assert "corpus/data/*.json: this pattern fits no file of texts" in result.stderr


def test_learning_rates_are_tested_on_shards(folder: Path) -> None:
    options = ("--stage", "pretrain", "--size", "tiny", "--steps", "20", "--no-cache", "--json")
    found = json_of(succeed("lr-find", "corpus/*/train-*.parquet", *options))
    assert found["command"].startswith("ulmfit-fast pretrain 'corpus/*/train-*.parquet'")


def test_a_table_of_labels_is_one_file(folder: Path) -> None:
    result = run("train", "corpus", *SHORT)
    assert result.exit_code == 2
    assert "corpus: is a folder: give one file" in result.stderr


@pytest.mark.parametrize("is_large", [False, True])
def test_general_and_unlabelled_texts_may_be_shards(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(stream, "_LARGE_BYTES", 0)
    rows = [("text", "label"), *((f"{text} {i}", i % 2) for i, text in enumerate(TEXTS))]
    rows += [(TEXTS[40], "0"), (TEXTS[41], "1")]
    for name, part in (("train.csv", rows[:-2]), ("valid.csv", [rows[0], *rows[-2:]])):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(part)
    files = Files(
        "train.csv", valid="valid.csv", general="corpus", unlabelled=("corpus/data/*.parquet",)
    )
    data = read_training_data(files, seed=0)
    assert isinstance(data.general, TextStream) == is_large
    assert list(data.general) == [*TEXTS[:40], *TEXTS[42:]]
    assert data.unlabelled == [*TEXTS[:40], *TEXTS[42:59]]
    assert [source for source, _ in data.skipped] == ["corpus/data/train-10.parquet"] * 2
    assert [note.split(" were")[0] for note in data.notes[-2:]] == [
        "2 unlabelled texts", "2 general texts"
    ]  # fmt: skip
    assert "corpus: 3 files, text from 'text'" in data.remarks


def test_unlabelled_shards_must_have_the_column_of_the_training_file(folder: Path) -> None:
    write_rows(folder / "train.csv", 60)
    result = run("train", "train.csv", "--unlabelled", "corpus", *SHORT)
    assert result.exit_code == 2
    assert 'corpus/data/train-9.parquet: no column "review", which train.csv has' in result.stderr
    result = run("train", "train.csv", "--general", "corpus/m*/*.txt", *SHORT)
    assert "corpus/m*/*.txt: this pattern fits no file of texts" in result.stderr


def test_large_general_shards_are_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LARGE_BYTES", 0)
    write_rows(folder / "train.csv", 60)
    said = succeed("train", "train.csv", "--general", "corpus", "--general-epochs", "1", *SHORT)
    assert "stage 1/3 language model, general text: " in said.stdout
    assert "corpus: 3 files, text from 'text'" in said.stdout


@pytest.mark.parametrize("source", ["corpus", "corpus/*/*.parquet"])
def test_a_run_does_not_go_on_with_shards_that_have_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    options = TrainOptions(Files(train=source), Settings(), resume=folder)
    write_record(folder, "pretrain", options)
    assert read_record(options, folder, "pretrain").files.train == source
    monkeypatch.chdir("/")
    assert read_record(options, folder, "pretrain").files.train == f"{folder}/{source}"
    shard = folder / "corpus" / "more" / "train-1.parquet"
    content = shard.read_bytes()
    shard.write_bytes(parquet_of(TEXTS[:3]))
    with pytest.raises(InputError, match="missing or changed since"):
        read_record(options, folder, "pretrain")
    shard.write_bytes(content)
    read_record(options, folder, "pretrain")
    shard.unlink()
    with pytest.raises(InputError, match="missing or changed since"):
        read_record(options, folder, "pretrain")
