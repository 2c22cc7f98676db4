"""The command `ulmfit-fast export`: what it writes, says and refuses."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import export_models
import pytest
from cli_runs import files_under, json_of, run, succeed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with both models: do not write into it."""
    place = tmp_path_factory.mktemp("run")
    trainer = export_models.trainer_with()
    trainer.save(place / "model", "classifier")
    trainer.save(place / "language_model", "language_model")
    return place


def refused(*arguments: str | Path) -> str:
    result = run("export", *arguments)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("exporting")]
    assert line.startswith("error: ")
    assert not result.stdout
    return line


@pytest.mark.peer
def test_onnx_is_written_checked_and_described(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "m.onnx"
    result = succeed("export", folder, "--out", out)
    assert "classifier, 3 classes, weights fp32" in result.stdout
    assert "logits differ by at most" in result.stdout
    assert sorted(files_under(tmp_path)) == ["m.onnx", "m.tokenizer.json"]
    before = out.read_bytes()
    assert "m.onnx: this file exists" in refused(folder, "--out", out)
    assert out.read_bytes() == before
    texts = tmp_path / "new.csv"
    with texts.open("w", newline="") as file:
        csv.writer(file).writerows([("label", "review"), ("a", "A film!"), ("b", "two dull hours")])
    more = ("--int8", "--texts", texts, "--overwrite", "--json")
    found = json_of(succeed("export", folder, "--out", out, *more))
    assert (found["to"], found["precision"], found["int8"]) == ("onnx", "fp32", True)
    assert found["check"]["n_texts"] == 2
    assert found["bytes"] == out.stat().st_size < len(before)


@pytest.mark.peer
def test_language_model_goes_to_onnx(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = succeed("export", folder / "language_model", "--out", tmp_path / "lm.onnx")
    assert "language model, weights fp32" in result.stdout


def test_torch_export_is_written_and_checked(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.pt2"
    found = json_of(succeed("export", folder, "--to", "torch-export", "--out", out, "--json"))
    assert found["check"]["max_difference"] < 1e-5
    assert sorted(files_under(tmp_path)) == ["m.pt2", "m.tokenizer.json"]


def test_what_cannot_be_used_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.onnx"
    pt2 = ("--to", "torch-export", "--out", tmp_path / "m.pt2")
    assert "no such model directory" in refused(tmp_path / "no", "--out", out)
    (tmp_path / "else").mkdir()
    assert "not a model directory" in refused(tmp_path / "else", "--out", out)
    assert "ends in .onnx" in refused(folder, "--out", tmp_path / "m.bin")
    assert "ends in .pt2" in refused(folder, "--to", "torch-export", "--out", out)
    assert "weights stay fp32" in refused(folder, *pt2, "--int8")
    both = ("--int8", "--precision", "bf16")
    assert "--int8 and --precision bf16 exclude each other" in refused(folder, "--out", out, *both)
    assert "weights stay fp32" in refused(folder, *pt2, "--precision", "bf16")
    assert "'fp16' is not one of" in refused(folder, "--out", out, "--precision", "fp16")
    assert "make it first" in refused(folder, "--out", tmp_path / "no" / "m.onnx")
    assert "no.csv" in refused(folder, "--out", out, "--texts", tmp_path / "no.csv")
    (tmp_path / "m.tokenizer.json").write_text("mine")
    assert "m.tokenizer.json: this file exists" in refused(folder, "--out", out)
    (tmp_path / "m.tokenizer.json").unlink()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    assert "cannot be written" in refused(folder, "--out", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["else"]


def test_missing_libraries_name_the_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ulmfit_fast.interop.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refused(folder, "--out", tmp_path / "m.onnx")
    assert 'pip install "ulmfit_fast[onnx]"' in line
    assert not files_under(tmp_path)


def test_a_full_disk_leaves_what_stood_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ulmfit_fast.interop import export_files

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "m.pt2"
    out.write_text("mine")
    monkeypatch.setattr(export_files, "flush_to_disk", full)
    line = refused(folder, "--to", "torch-export", "--out", out, "--overwrite")
    assert "No space left on device" in line
    assert files_under(tmp_path) == {"m.pt2": b"mine"}


def test_json_of_a_check_is_plain_numbers(folder: Path, tmp_path: Path) -> None:
    arguments = ("--to", "torch-export", "--out", tmp_path / "m.pt2", "--json")
    check = json.loads(succeed("export", folder, *arguments).stdout)["check"]
    assert check["shortest"] == 1
    assert check["longest"] == export_models.MAX_LEN + 2 * export_models.BPTT + 1


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_a_packed_folder_is_small_and_every_verb_reads_it(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    options = ["--to", "packed", *(["--precision", "bf16"] if kind == "bf16" else [])]
    for name, model in (("classifier", folder), ("lm", folder / "language_model")):
        said = succeed("export", model, "--out", tmp_path / name, *options).stdout
        assert f"weights {kind}" in said
        assert "probabilities by " in said
        assert json_of(succeed("info", tmp_path / name, "--json"))["packing"] == kind
    whole, packed = (
        sum((place / name).stat().st_size for name in os.listdir(place) if name.startswith("model"))
        for place in (folder / "model", tmp_path / "classifier")
    )
    assert packed < {"int8": 0.35, "bf16": 0.6}[kind] * whole  # of small weights
    texts = tmp_path / "new.txt"
    texts.write_text("a film to see\nthe cast was dull\n")
    found, wanted = (
        [json.loads(line)["probabilities"] for line in
         succeed("predict", model, texts, "--json", "--precision", "fp32").stdout.splitlines()]
        for model in (tmp_path / "classifier", folder)
    )  # fmt: skip
    for row, expected in zip(found, wanted, strict=True):
        assert row == pytest.approx(expected, abs=0.05)
    assert found != wanted
    assert succeed("generate", tmp_path / "lm", "the", "--tokens", "2").stdout.startswith("the")
    assert "classifier: exists" in refused(folder, "--out", tmp_path / "classifier", *options)
    text = tmp_path / "text.txt"
    text.write_text("kept")
    assert "stands there and is not a model" in refused(
        folder, "--out", text, "--overwrite", *options
    )
    assert text.read_text() == "kept"
