"""benchmarks/fastai_import.py: the record, and that all learners do the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("fastai")
pytestmark = pytest.mark.peer
SCRIPT = ROOT / "benchmarks" / "fastai_import.py"


def run(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_learner_is_timed_and_compared() -> None:
    said = run("--quick", "--only", "lm-60k", "classifier-long")
    for kind in ("one import float32", "one import bfloat16", "one import, fuse_loss bfloat16"):
        assert f"lm-60k {kind}" in said
    assert "against fastai float32" in said


def test_curves_are_recorded(tmp_path: Path) -> None:
    said = run("--curves", "--steps", "6", "--seeds", "2", "--results", str(tmp_path))
    assert said.startswith("last losses: fastai ")
    (file,) = (tmp_path / "accuracy").iterdir()
    record = json.loads(file.read_text())
    assert {len(runs) for runs in record["curves"].values()} == {2}
    assert record["last"]["fastai"][0] != record["last"]["fastai"][1]
    assert abs(record["difference"]) < 0.1


def test_the_report_has_a_line_for_each_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    report = __import__("report")
    newest = max((ROOT / "benchmarks" / "results").glob("fastai-import-side-by-side--*.json"))
    record = json.loads(newest.read_text())
    text = report.section(record, whole=False)
    assert len([line for line in text.splitlines() if line.startswith("| lang")]) == 6
    ours = next(line for line in text.splitlines() if "| one import | bfloat16 |" in line)
    assert "x | " in ours
