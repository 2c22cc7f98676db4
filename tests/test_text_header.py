"""The header of a csv file: found, forced, and told where it was taken by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from ulmfit_fast.text import read_table
from ulmfit_fast.text.table import load_table


def test_the_header_can_be_forced(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("label,text\na,b\n")
    table = read_table(path, header=False, text_columns=["1"], label_column="0")
    assert table.texts == ["text", "b"]
    path.write_text("1,2\na,b\n")
    assert read_table(path, header=True, text_columns=["2"], label_column="1").texts == ["b"]


def test_a_header_taken_by_default_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("fine film,pos\nsome good words,pos\nother bad words,neg\n" * 2)
    assert read_table(path).guessed_header == ("fine film", "pos")
    assert read_table(path, header=True).guessed_header == ()
    table = read_table(path, header=False)
    assert (table.texts[0], table.labels[0], table.guessed_header) == ("fine film", "pos", ())
    path.write_text("review,label\nsome good words,pos\n")
    assert read_table(path).guessed_header == ()


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", "u,v\n1,2\n", None),
        ("a.csv", "1,2\n3,4\n", ["0", "1"]),
        ("a.txt", "one\ntwo\n", ["text"]),
        ("a.label", "LOC:city Where ?\n", ["label", "fine_label", "text"]),
        ("a.jsonl", '{"0": "a"}\n', None),
    ],
)
def test_names_that_are_not_the_files_own_are_told(
    tmp_path: Path, name: str, content: str, columns: list[str] | None
) -> None:
    path = tmp_path / name
    path.write_text(content)
    table = load_table(path)
    assert table.has_names == (columns is None)
    if columns:
        assert list(table.columns) == columns
