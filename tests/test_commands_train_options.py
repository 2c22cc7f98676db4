"""The record of a run: read from any folder, refused in one line where it is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ulmfit_fast import InputError
from ulmfit_fast.commands.choices import Settings
from ulmfit_fast.commands.data import Files
from ulmfit_fast.commands.train_options import RECORD, TrainOptions, read_record, write_record


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    """Options that were noted, with two names of one file."""
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text,label\n")
    options = TrainOptions(Files(train="a.csv", test="./a.csv"), Settings(), resume=tmp_path)
    write_record(tmp_path, "train", options)
    return options


def test_two_names_of_one_file_are_found_from_another_folder(
    begun: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_record(begun, tmp_path, "train").files == begun.files
    monkeypatch.chdir("/")
    files = read_record(begun, tmp_path, "train").files
    assert files == replace(begun.files, train=f"{tmp_path}/a.csv", test=f"{tmp_path}/a.csv")
    (tmp_path / "a.csv").write_text("other")
    with pytest.raises(InputError, match=r"a\.csv: missing or changed"):
        read_record(begun, tmp_path, "train")


@pytest.mark.parametrize("name", ["english", "none"])
def test_names_of_models_are_no_files_of_the_folder(
    begun: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_record(tmp_path, "train", replace(begun, base=Path(name)))
    monkeypatch.chdir("/")
    assert read_record(begun, tmp_path, "train").base == Path(name)


def test_a_folder_of_such_a_name_is_a_file_of_the_folder(
    begun: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "english").mkdir()
    write_record(tmp_path, "train", replace(begun, base=Path("english")))
    monkeypatch.chdir("/")
    assert read_record(begun, tmp_path, "train").base == tmp_path / "english"


@pytest.mark.parametrize("gone", ["verb", "folder", "options", "inputs", "a setting"])
def test_a_damaged_record_is_refused_in_one_line(
    begun: TrainOptions, tmp_path: Path, gone: str
) -> None:
    record = json.loads((tmp_path / RECORD).read_text())
    if gone in record:
        del record[gone]
    else:
        record["options"]["settings"]["of a later version"] = 1
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"resume\.json: damaged, or not of this version"):
        read_record(begun, tmp_path, "train")
