"""A model is applied to the columns that it was trained on."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cli_runs import FILLING, SHORT, run, succeed

from ulmfit_fast.training.trainer import ULMFiTTrainer


def write_table(path: Path, names: tuple[str, ...], n_rows: int = 60) -> None:
    """Write a table of titles that are no use, bodies that tell the class, and labels."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for i in range(n_rows):
            words = ["good" if i % 2 else "awful", *FILLING[i % 5 :], str(i)]
            row = {"title": f"the report number {i}", "body": " ".join(words)}
            row["label"] = "pos" if i % 2 else "neg"
            writer.writerow([row[name] for name in names])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with both.csv, body.csv and the runs of_body and of_both: do not write into it."""
    folder = tmp_path_factory.mktemp("columns")
    write_table(folder / "both.csv", ("title", "body", "label"))
    write_table(folder / "body.csv", ("body", "label"))
    both = folder / "both.csv"
    succeed("train", both, "--text-column", "body", *SHORT, "--out", folder / "of_body")
    succeed("train", both, *SHORT, "--out", folder / "of_both")
    return folder


def test_predict_reads_the_columns_of_the_model(data: Path):
    assert ULMFiTTrainer.load(data / "of_body" / "model").text_columns == ("body",)
    asked = succeed("predict", data / "of_body", data / "both.csv", "--text-column", "body")
    by_itself = succeed("predict", data / "of_body", data / "both.csv")
    assert by_itself.stdout == asked.stdout
    assert f"{data / 'both.csv'}: text from 'body'\n" in by_itself.stderr
    other = succeed("predict", data / "of_body", data / "both.csv", "--text-column", "title")
    assert other.stdout != by_itself.stdout
    assert "text from 'title'\n" in other.stderr


def test_evaluate_reads_the_columns_of_the_model(data: Path):
    asked = succeed("evaluate", data / "of_body", data / "both.csv", "--text-column", "body")
    by_itself = succeed("evaluate", data / "of_body", data / "both.csv")
    assert by_itself.stdout == asked.stdout
    assert "text from 'body', label from 'label'\n" in by_itself.stderr


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_file_without_a_column_of_the_model_is_refused(data: Path, verb: str):
    result = run(verb, data / "of_both", data / "body.csv")
    assert result.exit_code == 2
    assert result.stderr == (
        f'error: {data / "body.csv"}: no column "title"; the model {data / "of_both"} was trained '
        'on "title", "body" (found: "body", "label"): name the text with --text-column\n'
    )
    succeed(verb, data / "of_both", data / "body.csv", "--text-column", "body")


def test_a_first_row_that_may_be_a_text_is_named(data: Path, tmp_path: Path):
    (tmp_path / "bare.csv").write_text("good film\nawful film\n")
    refused = run("predict", data / "of_body", tmp_path / "bare.csv")
    assert refused.exit_code == 2
    assert refused.stderr.endswith("; or --no-header, if the first row is a text\n")
    told = succeed("predict", data / "of_body", tmp_path / "bare.csv", "--no-header")
    assert "2 texts" in told.stderr


def test_files_without_names_are_read_as_they_are(data: Path, tmp_path: Path):
    (tmp_path / "lines.txt").write_text("good film\nawful film\n")
    from_file = succeed("predict", data / "of_both", tmp_path / "lines.txt")
    assert from_file.stdout == succeed(
        "predict", data / "of_both", "-", stdin="good film\nawful film\n"
    ).stdout  # fmt: skip


def test_a_model_that_does_not_know_its_columns(data: Path, tmp_path: Path):
    table = "".join(f"{'pos' if i % 2 else 'neg'},word and word {i}\n" for i in range(40))
    (tmp_path / "bare.csv").write_text(table)
    arguments = ["--no-header", *SHORT, "--out", tmp_path / "bare"]
    succeed("train", tmp_path / "bare.csv", *arguments)
    config = json.loads((tmp_path / "bare" / "model" / "config.json").read_text())
    assert config["text_columns"] == []
    assert "text from 'body'\n" in succeed("predict", tmp_path / "bare", data / "body.csv").stderr


def test_a_folder_written_before_columns_were_kept(data: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(data / "of_body" / "model", model)
    config = json.loads((model / "config.json").read_text())
    assert config.pop("text_columns") == ["body"]
    (model / "config.json").write_text(json.dumps(config))
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["config.json"] = hashlib.sha256((model / "config.json").read_bytes()).hexdigest()
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert ULMFiTTrainer.load(model).text_columns == ()
    result = succeed("predict", model, data / "both.csv")
    assert "text from 'title', 'body'\n" in result.stderr
