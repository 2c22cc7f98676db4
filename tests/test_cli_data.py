"""From the files of a run to its parts: columns, headers, the validation part."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from cli_runs import write_rows

from ulmfit_fast.commands.data import Files, TrainingData, read_training_data
from ulmfit_fast.commands.parts import Part, hold_out
from ulmfit_fast.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory with train.csv (columns review, label)."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.csv", 60)
    return tmp_path


def write(path: Path, header: list[str] | None, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])


def read(**files: str | tuple[str, ...] | bool) -> TrainingData:
    return read_training_data(Files(**{"train": "train.csv", **files}), seed=0)


# --- columns of other files

LABELLED = [
    ["a good film", "pos", "written in May by one of them"],
    ["a bad film", "neg", "written in June by another"],
] * 5


@pytest.mark.parametrize("option", ["valid", "test"])
@pytest.mark.parametrize(
    ("header", "missing"),
    [
        (["comment", "label", "note"], '"review"'),
        (["review", "class", "note"], '"label"'),
        (["text", "class", "note"], '"review", "label"'),
    ],
)
def test_a_file_with_names_that_lacks_a_column_is_refused(
    folder: Path, option: str, header: list[str], missing: str
):
    write(folder / "other.csv", header, LABELLED)
    with pytest.raises(InputError) as caught:
        read(**{option: "other.csv"})
    found = ", ".join(f'"{name}"' for name in header)
    assert str(caught.value) == (
        f"other.csv: no column {missing}, which train.csv has (found: {found}); give the "
        "columns of both files the same names"
    )


def test_unlabelled_texts_come_from_the_same_column(folder: Path):
    write(folder / "more.csv", ["note", "text", "review"], [["n", "t", "r"]] * 4)
    data = read(unlabelled=("more.csv",))
    assert (data.unlabelled, data.remarks) == (["r"] * 4, [])
    write(folder / "more.csv", ["note", "text"], [["n", "t"]] * 4)
    with pytest.raises(InputError, match=r'more.csv: no column "review", which train.csv has'):
        read(unlabelled=("more.csv",))


def test_files_without_names_are_read_by_content_and_that_is_said(folder: Path):
    rows = [[label, f"{text} {i}"] for i, (text, label, _) in enumerate(LABELLED)]
    write(folder / "bare.csv", None, rows)
    (folder / "lines.label").write_text("".join(f"{a}:x {b}\n" for a, b in rows))
    (folder / "more.txt").write_text("one text\nanother text\n")
    data = read(valid="lines.label", test="bare.csv", unlabelled=("more.txt",))
    assert data.valid.texts == [text for _, text in rows]
    assert data.test is not None
    assert data.test.labels == [label for label, _ in rows]
    assert data.unlabelled == ["one text", "another text"]
    assert data.remarks == [
        "lines.label: text from 'text', label from 'label'",
        "bare.csv: text from '1', label from '0'",
        "more.txt: text from 'text'",
    ]


def test_columns_asked_for_are_not_looked_for_by_content(folder: Path):
    write(folder / "bare.csv", None, [[label, text] for text, label, _ in LABELLED])
    with pytest.raises(InputError, match=r'bare.csv: no column "review"'):
        read(test="bare.csv", text_columns=("review",))
    (folder / "more.txt").write_text("one text\n")
    data = read(unlabelled=("more.txt",), general="more.txt", text_columns=("review",))
    assert data.unlabelled == data.general == ["one text"]


def test_training_without_header_and_test_with_one(folder: Path):
    rows = [[label, f"{text} {i}"] for i, (text, label, _) in enumerate(LABELLED)]
    write(folder / "train.csv", None, rows)
    write(folder / "test.csv", ["Class Index", "Description"], rows)
    data = read(test="test.csv")
    assert data.table.text_columns == ("1",)
    assert data.test is not None
    assert len(data.test) == 10
    assert data.remarks == ["test.csv: text from 'Description', label from 'Class Index'"]


def test_other_fields_than_in_training_are_refused(folder: Path):
    rows = [
        [label, f"a title of {i}", f"{text} {i}"] for i, (text, label, _) in enumerate(LABELLED)
    ]
    write(folder / "bare.csv", None, rows)
    with pytest.raises(InputError, match=r'bare.csv: no column "review", "label"'):
        read(test="bare.csv")


# --- headers


def test_a_first_row_taken_for_a_header_is_said_and_can_be_kept(folder: Path):
    rows = [[f"{text} {i}", label] for i, (text, label, _) in enumerate(LABELLED)]
    write(folder / "train.csv", None, [["good film", "pos"], *rows])
    data = read()
    assert len(data.train) + len(data.valid) == 10
    assert data.remarks == [
        "train.csv: the first row ('good film', 'pos') is taken for column names, as nothing in "
        "it says otherwise; if it is a text, give --no-header"
    ]
    data = read(header=False)
    assert len(data.train) + len(data.valid) == 11
    assert data.remarks == []


# --- the validation part


@pytest.mark.parametrize("seed", range(50))
def test_every_class_keeps_a_training_row(seed: int):
    """The only row of 'rare' has the text of a row of 'pos'."""
    texts = [f"text {i}" for i in range(19)] + ["text 4"]
    labels = ["pos", "neg"] * 9 + ["pos", "rare"]
    part = Part(texts, labels, list(range(1, 21)), "a.csv")
    train, valid = hold_out(part, 0.3, seed)
    assert set(train.labels) == {"pos", "neg", "rare"}
    assert len(valid) > 0
    assert not set(train.texts) & set(valid.texts)
    assert sorted(train.rows + valid.rows) == part.rows


@pytest.mark.parametrize("seed", range(50))
def test_a_class_of_repeated_texts_alone_keeps_a_training_row(seed: int):
    """Every text has a row of both classes, or of three."""
    texts = [f"text {i // 2}" for i in range(12)] + ["text 0", "text 1"]
    labels = ["pos", "neg"] * 6 + ["both", "both"]
    part = Part(texts, labels, list(range(1, 15)), "a.csv")
    train, valid = hold_out(part, 0.5, seed)
    assert set(train.labels) == {"pos", "neg", "both"}
    assert len(valid) > 0


def test_the_validation_part_is_a_tenth_of_each_class():
    part = Part([str(i) for i in range(300)], ["a"] * 100 + ["b"] * 200, list(range(300)), "a.csv")
    train, valid = hold_out(part, 0.1, 1)
    assert Counter(valid.labels) == {"a": 10, "b": 20}
    again = hold_out(part, 0.1, 1)
    assert (train, valid) == again
    assert hold_out(part, 0.1, 2) != again


@pytest.mark.parametrize(
    ("texts", "labels"), [(["x", "x"], ["a", "b"]), (["x", "y", "y"], ["a", "b", "a"])]
)
def test_too_few_texts_to_hold_any_out(texts: list[str], labels: list[str]):
    rows = list(range(1, len(texts) + 1))
    with pytest.raises(
        InputError, match=r"classes for .* different texts.*--label-column.*--valid"
    ):
        hold_out(Part(texts, labels, rows, "a.csv"), 0.1, 0)
