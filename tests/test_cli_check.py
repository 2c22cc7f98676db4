"""`ulmfit-fast check`: what it prints, its exit status, and that train says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import json_of, run, succeed
from planted import PLANTS, clean

from ulmfit_fast.commands.data import Files, read_training_data
from ulmfit_fast.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with train.jsonl, valid.jsonl and test.jsonl, in which nothing is wrong."""
    monkeypatch.chdir(tmp_path)
    clean().read(tmp_path)
    return tmp_path


def plant(folder: Path, *cases: str) -> None:
    data = clean()
    for case in cases:
        PLANTS[case].into(data)
    data.read(folder)


def test_nothing_found_is_status_0_and_a_summary(folder: Path) -> None:
    result = succeed("check", "train.jsonl", "--valid", "valid.jsonl", "--test", "test.jsonl")
    assert result.stderr == ""
    rows, labels, words, script, blank, verdict = result.stdout.splitlines()
    assert rows == (
        "rows      train.jsonl 120 rows, valid.jsonl 24 rows, test.jsonl 24 rows; text from "
        '"text", label from "label"'
    )
    assert labels == "labels    2: neg 60 (50 %), pos 60 (50 %)"
    assert words.startswith("words     a text has ")
    assert script == "script    Latin 100 %"
    assert (blank, verdict) == ("", "nothing found")


def test_a_finding_has_its_rows_and_what_to_do_and_status_1(folder: Path) -> None:
    plant(folder, "escape", "two labels", "a long text")
    result = run("check", "train.jsonl")
    assert result.exit_code == 1
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    start = lines.index("warning control-characters: 1 text has control or invisible characters "
                        "(U+001B)")  # fmt: skip
    assert lines[start + 1].startswith("  train.jsonl, row 6: ")
    assert "\\x1b[31m" in lines[start + 1]
    assert "\x1b" not in result.stdout
    assert lines[start + 2].startswith("  -> remove them")
    assert "  [" in next(line for line in lines if "row 121" in line)
    assert lines[-1] == "2 warnings, 1 note"


def test_notes_alone_are_status_0(folder: Path) -> None:
    plant(folder, "one word")
    assert succeed("check", "train.jsonl").stdout.splitlines()[-1] == "1 note"


def test_json_says_the_same(folder: Path) -> None:
    plant(folder, "unknown label", "repeated texts")
    result = run("check", "train.jsonl", "--test", "test.jsonl", "--json")
    assert result.exit_code == 1
    values = json_of(result)
    assert values["is_well"] is False
    assert values["n_rows"] == {"train.jsonl": 122, "test.jsonl": 24}
    assert values["text_columns"] == ["text"]
    error, warning = values["findings"]
    assert (error["name"], error["severity"], error["n"]) == ("unknown-label", "error", 1)
    assert error["examples"][0]["source"] == "test.jsonl"
    assert error["examples"][0]["row"] == 3
    assert (warning["name"], warning["n"]) == ("duplicates", 2)
    assert len(warning["examples"]) == 2


def test_findings_can_be_left_out_by_name(folder: Path) -> None:
    plant(folder, "tags", "repeated texts")
    result = run("check", "train.jsonl", "--ignore", "html")
    assert "html" not in result.stdout
    assert result.exit_code == 1
    succeed("check", "train.jsonl", "--ignore", "html", "--ignore", "duplicates")
    wrong = run("check", "train.jsonl", "--ignore", "duplicate")
    assert wrong.exit_code == 2
    assert wrong.stderr == (
        "error: --ignore duplicate: no such finding: did you mean duplicates?\n"
    )


def test_other_columns_and_unlabelled_texts(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    named = [{"body": row["text"], "kind": row["label"], "n": 1} for row in rows]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, named)))
    (folder / "more.txt").write_text("a text\x07 with a bell\n")
    options = ("--text-column", "body", "--label-column", "kind", "--unlabelled", "more.txt")
    result = run("check", "t.jsonl", *options, "--json")
    (finding,) = (f for f in json_of(result)["findings"] if f["severity"] != "note")
    assert finding["name"] == "control-characters"
    assert finding["examples"][0]["source"] == "more.txt"


@pytest.mark.parametrize("case", ["one class", "names for labels", "unknown label"])
def test_an_error_is_what_training_refuses(folder: Path, case: str) -> None:
    plant(folder, case)
    test = "test.jsonl" if case == "unknown label" else None
    result = run("check", "train.jsonl", *(["--test", test] if test else []), "--json")
    assert [f["severity"] for f in json_of(result)["findings"]] == ["error"]
    with pytest.raises(InputError):
        read_training_data(Files("train.jsonl", test=test), seed=0)


def test_rows_of_which_none_can_be_held_out_are_an_error(folder: Path) -> None:
    lines = [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}, {"text": "y", "label": "a"}]
    (folder / "few.jsonl").write_text("\n".join(map(json.dumps, lines)))
    findings = json_of(run("check", "few.jsonl", "--json"))["findings"]
    (found,) = (f for f in findings if f["severity"] == "error")
    assert found["name"] == "no-validation"
    with pytest.raises(InputError, match="so that none can be held out"):
        read_training_data(Files("few.jsonl"), seed=0)


@pytest.mark.parametrize(
    ("case", "note"),
    [
        ("repeated texts", "1 rows of train.jsonl repeat the text of a row before them"),
        ("two labels", "1 of them with another label, first rows 4 and 121"),
        ("few rows a label", "40 classes for 120 labelled rows: few rows a class"),
        ("numbers for labels", "60 classes for 120 labelled rows: few rows a class"),
    ],
)
def test_train_remarks_on_what_check_finds(folder: Path, case: str, note: str) -> None:
    """By the same functions; of texts, train compares what is equal to the letter."""
    plant(folder, case)
    data = read_training_data(Files("train.jsonl"), seed=0)
    assert any(said.startswith(note) for said in data.notes)


def test_it_starts_without_torch_in_less_than_a_second(folder: Path) -> None:
    (folder / "t.csv").write_text("text,label\n" + "".join(
        f"some words of number {i},{'ab'[i % 2]}\n" for i in range(40)))  # fmt: skip
    code = (
        "import os, sys\n"
        "from ulmfit_fast.cli import main\n"
        "try:\n"
        "    main(['check', sys.argv[1], '--json'])\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules\n"
        "    assert sum(os.times()[:2]) < float(sys.argv[2]), os.times()\n"
    )
    for name, seconds in (("train.jsonl", "0.6"), ("t.csv", "1.5")):  # csv: through `datasets`
        ran = [
            subprocess.run([sys.executable, "-c", code, name, seconds], capture_output=True,
                           text=True, check=False)
            for _ in range(3)
        ]  # fmt: skip
        assert any("Error" not in one.stderr for one in ran), ran[0].stderr
