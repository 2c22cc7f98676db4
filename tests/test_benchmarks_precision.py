"""The benchmark of loss curves in both precisions: what it trains, compares and writes down."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from small_training import draw_texts


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return __import__("precision_curves")


def test_both_precisions_train_the_same_and_the_record_says_on_what(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "some.txt"
    text.write_text("\n".join(draw_texts(60)[0]))
    arguments = [
        *("--text", str(text), "--steps", "40", "--batch-size", "4", "--bptt", "12"),
        *("--results", str(tmp_path)),
    ]
    monkeypatch.setattr(sys, "argv", ["-", *arguments])
    monkeypatch.setattr(script, "THINNED", 1)
    monkeypatch.setattr(script, "WINDOW", 5)
    monkeypatch.setattr(script.machine, "copy_rate", lambda _: 1e9)
    assert script.main(arguments) == 0
    (file,) = tmp_path.glob("precision-curves--cpu--*.json")
    record = json.loads(file.read_text())
    assert record["command"].startswith(
        "python benchmarks/precision_curves.py --text some.txt --steps 40"
    )
    assert {"commit", "date", "dirty", "machine"} < record.keys()
    fp32, bf16 = (record["curves"][name] for name in ("fp32", "bf16"))
    # Beyond one epoch of the text: its batches go on.
    assert record["text"]["n_tokens"] < record["runs"][0]["n_tokens"]
    assert fp32["step"] == bf16["step"] == list(range(5, 41))
    assert fp32["loss"] != bf16["loss"]
    assert fp32["loss"][0] == pytest.approx(bf16["loss"][0], rel=0.01)
    assert 0 < record["distance"]["final"] <= record["distance"]["largest"] < 0.05
    assert [run["n_tokens"] for run in record["runs"]] == [record["runs"][0]["n_tokens"]] * 2
    assert [run["description"].split(", ")[0] for run in record["runs"]] == [
        "0.5 M parameters in fp32",
        "0.5 M parameters in bf16",
    ]


def test_distances_are_of_smoothed_curves(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "WINDOW", 2)
    found = script.distances([4.0, 4.0, 4.0, 4.0], [4.0, 5.0, 3.0, 4.04])
    assert found["largest"] == pytest.approx(0.125)
    assert found["largest_at_step"] == 2
    assert found["final"] == pytest.approx(0.12)
    assert found["largest_of_a_single_step"] == pytest.approx(0.25)
    assert found["final_loss"]["bf16"] == pytest.approx(3.52)
