"""The verbs that use a trained model: predict, evaluate, info."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import json_of, run, succeed, train_small, write_rows

from ulmfit_fast import cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory with test.csv."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "test.csv", 20, seed=1)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train: do not write into it."""
    return train_small(tmp_path_factory.mktemp("trained"))


def test_predict_writes_csv_that_reads_back(folder: Path, trained: Path):
    tricky = ['say "good", then\nleave', "=1+1", "a\ttab", "bad \x1b[31mred", "ünï 中文"]
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("review",), *[(text,) for text in tricky]])
    result = succeed("predict", trained, "in.csv", "--out", "out.csv")
    assert result.stdout == ""
    assert "5 texts -> out.csv" in result.stderr
    rows = list(csv.DictReader((folder / "out.csv").open(newline="", encoding="utf-8")))
    assert [row["text"] for row in rows] == tricky
    for row in rows:
        assert row["label"] in ("neg", "pos")
        assert float(row["p(neg)"]) + float(row["p(pos)"]) == pytest.approx(1, abs=2e-6)
        assert float(row["probability"]) == max(float(row["p(neg)"]), float(row["p(pos)"]))


def test_predict_to_the_terminal_escapes_what_could_act_on_it(trained: Path):
    result = succeed("predict", trained, "-", stdin="evil \x1b]0;title\x07 text\x9b \u202e\n")
    assert "evil \\x1b]0;title\\x07 text\\x9b \\u202e" in result.stdout
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.output)


def test_predict_reads_lines_and_numbers_them(trained: Path):
    result = succeed("predict", trained, "-", stdin="good film\r\n\n  \nawful, dull film")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["row"], row["text"]) for row in rows] == [
        ("1", "good film"),
        ("4", "awful, dull film"),
    ]
    assert "2 texts; 2 rows without text skipped" in result.stderr


def test_predict_json_and_encoding(trained: Path):
    result = succeed(
        "predict",
        trained,
        "-",
        "--json",
        "--encoding",
        "latin-1",
        stdin="caf\xe9".encode("latin-1"),
    )
    answer = json_of(result)
    assert (answer["row"], answer["text"]) == (1, "café")
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)


def test_predict_does_not_depend_on_the_rows_around(folder: Path, trained: Path):
    lines = ["good film", "an awful film with a weak story told by a dull actor", "fine"]
    together = succeed(
        "predict", trained, "-", "--json", stdin="\n".join(lines)
    ).stdout.splitlines()
    for line, answer in zip(lines, together, strict=True):
        alone = json_of(succeed("predict", trained, "-", "--json", stdin=line))
        expected = pytest.approx(alone["probabilities"], abs=1e-5)
        assert json.loads(answer)["probabilities"] == expected


def test_predict_refuses_to_replace_a_file(folder: Path, trained: Path):
    (folder / "out.csv").write_text("precious")
    refused = run("predict", trained, "test.csv", "--out", "out.csv")
    assert refused.exit_code == 2
    assert "out.csv: this file exists" in refused.stderr
    assert (folder / "out.csv").read_text() == "precious"
    succeed("predict", trained, "test.csv", "--out", "out.csv", "--overwrite")
    assert (folder / "out.csv").read_text() != "precious"


def test_a_reader_that_has_enough_ends_the_command_quietly(folder: Path, trained: Path):
    (folder / "many.txt").write_text("a good film with a story\n" * 3_000)
    code = "from ulmfit_fast.cli import main; main()"
    command = [sys.executable, "-c", code, "predict", str(trained), "many.txt"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"row,label")
        process.stdout.close()
        errors = process.stderr.read()
    assert errors.splitlines() == [b"many.txt: text from 'text'"]
    assert process.returncode == 141


def test_no_header_keeps_the_first_row(folder: Path, trained: Path):
    (folder / "bare.csv").write_text("good film,fine\nawful film,dull\n")
    arguments = ["predict", trained, "bare.csv", "--text-column"]
    guessed = succeed(*arguments, "good film")
    assert "the first row ('good film', 'fine') is taken for column names" in guessed.stderr
    assert "1 text" in guessed.stderr
    told = succeed(*arguments, "0", "--no-header")
    assert "column names" not in told.stderr
    assert "2 texts" in told.stderr
    (folder / "labelled.csv").write_text("good film,pos\nawful film,neg\n")
    columns = ["--text-column", "0", "--label-column", "1", "--no-header", "--json"]
    assert json_of(succeed("evaluate", trained, "labelled.csv", *columns))["n"] == 2


def test_evaluate_for_people_and_programs(folder: Path, trained: Path):
    said = succeed("evaluate", trained, "test.csv").stdout
    assert "error     " in said
    assert "of 20 wrong)" in said
    assert "precision" in said
    values = json_of(succeed("evaluate", trained / "model", "test.csv", "--json"))
    assert values["n"] == 20
    assert sum(map(sum, values["confusion"])) == 20
    low, high = values["error_interval_95"]
    assert 0 <= low <= values["error"] <= high <= 1


def test_evaluate_takes_the_label_column_of_the_run(folder: Path, trained: Path):
    with (folder / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "dated.csv").open("w") as file:
        writer = csv.DictWriter(file, [*rows[0], "day"])
        writer.writeheader()
        writer.writerows({**row, "day": f"day {n % 2}"} for n, row in enumerate(rows))
    said = succeed("evaluate", str(trained), "dated.csv")
    assert "label from 'label'" in said.stderr
    (trained.parent / "other.unfinished").mkdir()
    for verb in (["evaluate", "dated.csv"], ["info"], ["report"]):
        result = run(verb[0], str(trained.parent / "other"), *verb[1:])
        assert result.exit_code == 2
        assert "this run is not finished" in result.stderr
        assert "train --resume" in result.stderr


def test_info_of_the_installation_and_of_a_model(trained: Path):
    assert "kernel       drop_connect on cpu: " in succeed("info").stdout
    facts = json_of(succeed("info", "--json"))
    assert facts["ulmfit_fast"] == cli.__version__
    said = succeed("info", trained).stdout
    assert "classifier" in said
    assert "2: neg, pos" in said
    assert json_of(succeed("info", trained / "language_model", "--json"))["classes"] == []
    assert "classes" not in succeed("info", trained / "language_model").stdout


def test_rows_left_out_are_listed(folder: Path, trained: Path):
    (folder / "gaps.csv").write_text("review,label\ngood film,pos\n" + " ,pos\n" * 6 + "fine,\n")
    said = succeed("predict", trained, "gaps.csv").stderr
    assert "gaps.csv, row 3, column 'review': white space only\n" in said
    assert said.count("white space only") == 5
    assert "2 texts; 6 rows without text skipped" in said
    said = succeed("evaluate", trained, "gaps.csv").stdout
    assert "skipped   7 rows without text or label\n          gaps.csv, row 3, column" in said
    assert said.count("gaps.csv, row") == 5
