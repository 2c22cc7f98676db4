"""The benchmark of exported files: what it writes down."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import export_models
import pytest
from conftest import ROOT
from small_training import draw_texts

pytestmark = pytest.mark.peer
pytest.importorskip("onnxruntime")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return __import__("onnx_export")


def test_record_has_every_form_of_both_models(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, labels = draw_texts(60)
    file = tmp_path / "some.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(texts, labels, strict=True)])

    def trainer(rows: object, options: object) -> object:
        trainer = export_models.trainer_with()
        trainer.labels = ["animal", "tool", "none"]
        return trainer

    monkeypatch.setattr(script, "trained_model", trainer)
    monkeypatch.setattr(script, "drawn_model", lambda seed: export_models.classifier().eval())
    monkeypatch.setattr(script, "FORMS", {"fp32": {}, "bf16": {"precision": "bf16"}})
    monkeypatch.setattr(script, "N_TEXTS", 8)
    monkeypatch.setattr(script, "N_RANDOM", 6)
    monkeypatch.setattr(script, "TIMED_LENGTHS", (3,))
    monkeypatch.setattr(script.machine, "copy_rate", lambda _: 1e9)
    arguments = ["--text", str(file), "--rounds", "2", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["-", *arguments])
    assert script.main(arguments) == 0
    (written,) = tmp_path.glob("onnx-export--*.json")
    record = json.loads(written.read_text())
    assert record["command"].startswith("python benchmarks/onnx_export.py --text some.csv")
    assert {"commit", "date", "dirty", "machine", "onnxruntime"} < record.keys()
    assert record["text"]["n_checked"] == 8
    for case in record["cases"]:
        forms = {file["form"]: file for file in case["files"]}
        assert list(forms) == ["fp32", "bf16", "torch-export"]
        assert forms["fp32"]["graph_difference"] < 1e-4 < forms["bf16"]["max_difference"]
        assert case["times"][0]["time_ms"]["onnxruntime bf16"]["n"] == 2
    assert set(record["cases"][0]["accuracy"]) > {"ulmfit_fast fp32", "onnxruntime fp32"}
