"""The first ten minutes: what a newcomer reads who has an odd table, or names the wrong thing."""

from __future__ import annotations

import codecs
import csv
import gzip
import random
from pathlib import Path

import pytest
from cli_runs import SHORT, files_under, run, succeed, train_small

HEADER = ["Datum", "Meldung", "Kategorie", "Nr"]
WORDS = {"Küche": "Herd Öfen Töpfe", "Garten": "Beet Äpfel Hecke", "Straße": "Stau Brücke Ampel"}
FILLING = ["der", "die", "das", "und", "ist", "nicht", "sehr", "heute", "für", "über", "große"]


def odd_rows(n: int) -> list[list[str]]:
    """Rows with a date, umlauts and a number; every 37th is empty."""
    draw = random.Random(1)
    rows = []
    for i in range(n):
        label = list(WORDS)[i % 3]
        words = draw.choices(FILLING, k=6) + draw.choices(WORDS[label].split(), k=3)
        row = [f"{i % 28 + 1:02d}.05.2024", " ".join(words) + f" {i}", label, str(i)]
        rows.append(row if i % 37 != 5 else ["", "", "", ""])
    return rows


def write_odd(path: Path, rows: list[list[str]]) -> None:
    """Write as a German spreadsheet does: semicolons, and a byte order mark."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows([HEADER, *rows])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_odd(tmp_path / "meldungen.csv", odd_rows(300))
    return tmp_path


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_an_odd_table_is_understood_without_an_option(folder: Path) -> None:
    content = (folder / "meldungen.csv").read_bytes()
    assert content.startswith(codecs.BOM_UTF8)
    (folder / "meldungen.csv.gz").write_bytes(gzip.compress(content))
    said = succeed("train", "meldungen.csv.gz", *SHORT).stdout
    assert "292 labelled rows; text from 'Meldung', label from 'Kategorie'" in said
    assert "classes   3: Garten 98, Küche 97, Straße 97" in said
    assert "skipped   8 rows" in said
    assert "is taken for column names" not in said  # numbers below a name leave nothing to guess


def test_what_is_wrong_with_a_column_is_said_with_its_values(folder: Path) -> None:
    message = refused("train", "meldungen.csv", "--label-column", "Kategori")
    assert 'did you mean "Kategorie"?' in message
    with (folder / "unlike.csv").open("w", newline="") as file:
        rows = [(f"der Herd ist heute gut {i}", f"nr{i % 250}", "x") for i in range(500)]
        csv.writer(file).writerows([("Meldung", "Sorte", "Ort"), *rows])
    message = refused("train", "unlike.csv")
    assert '"Sorte" has 250 in 500 rows, "Ort" has only one value' in message
    assert "--label-column" in message


def test_few_rows_and_many_classes(folder: Path) -> None:
    write_odd(folder / "drei.csv", odd_rows(3))
    assert "give more rows of each class" in refused("train", "drei.csv")
    rows = [[a, b, f"{c} {i % 83}", d] for i, (a, b, c, d) in enumerate(odd_rows(300)) if b]
    write_odd(folder / "viele.csv", rows)
    result = run("train", "viele.csv", *SHORT)
    assert "classes for 292 labelled rows: few rows a class" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "meldungen.xlsx"], "save the sheet as CSV (UTF-8) first"),
        (["train", "https://example.org/a.csv"], "is an address, and only files are read"),
        (["train", "."], "is a folder: give one file, such as meldungen.csv"),
        (["train", "meldung.csv"], "did you mean meldungen.csv?"),
        (["predict", "meldungen.csv", "run"], "give first the model's folder, then the file"),
        (["predict", "ru", "meldungen.csv"], "did you mean run?"),
        (["info", "."], "did you mean run?"),
        (["info", "nowhere/run"], "give a folder that train or pretrain wrote"),
    ],
    ids=str,
)
def test_a_wrong_name_is_answered_with_the_right_one(
    folder: Path, finished: Path, arguments: list[str], expected: str
) -> None:
    (folder / "meldungen.xlsx").write_bytes(b"PK\x03\x04")
    (folder / "run").symlink_to(finished)
    assert expected in refused(*arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train: do not write into it."""
    return train_small(tmp_path_factory.mktemp("finished"))


def test_the_file_is_looked_for_before_the_folder_that_is_named_after_it(folder: Path) -> None:
    (folder / "runs" / "meldungen").mkdir(parents=True)
    (folder / "runs" / "meldungen" / "run.json").write_text("{}")
    before = files_under(folder)
    assert 'unknown kind of file "xlsx"' in named_so(folder, "meldungen.xlsx")
    assert "runs/meldungen: this folder exists" in refused("train", "meldungen.csv")
    assert files_under(folder) == before


def named_so(folder: Path, name: str) -> str:
    (folder / name).write_bytes(b"PK")
    message = refused("train", name)
    (folder / name).unlink()
    return message
