"""`ulmfit-fast report`, and the report that train and pretrain leave."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from cli_runs import SHORT, json_of, run, succeed, write_rows
from examinations import draw_examination, run_values, write_run

from ulmfit_fast.commands import run_report
from ulmfit_fast.commands.environment import environment, peak_memory
from ulmfit_fast.commands.report import Run
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.interpret.examination_json import from_json
from ulmfit_fast.training.trainer import ULMFiTTrainer

WITH_REPORT = [option for option in SHORT if option != "--no-report"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rows(tmp_path / "train.csv", 60)
    write_rows(tmp_path / "test.csv", 20, seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_training_ends_with_a_report(folder: Path):
    result = succeed("train", "train.csv", "--test", "test.csv", *WITH_REPORT)
    assert "report    runs/train/report.html\n" in result.stdout
    page = html.unescape(Path("runs/train/report.html").read_text())
    found = from_json(Path("runs/train/examination.json").read_text())
    summary = json.loads(Path("runs/train/run.json").read_text())
    assert (found.part, found.n) == ("test", 20)
    assert found.accuracy == summary["test"]["accuracy"]
    assert [list(row) for row in found.confusion] == summary["test"]["confusion"]
    assert "of 20 test texts" in page
    command = " ".join(["ulmfit-fast train train.csv --test test.csv", *WITH_REPORT])
    assert summary["command"] == command
    assert command in page
    assert {*summary["why"]} == {"base", "size", "device", "recipe", "precision"}
    assert all(reason in page for reason in summary["why"].values())
    assert summary["peak_memory"]["host_bytes"] > 2**20
    assert summary["environment"]["processor"] in page


def test_a_language_model_has_a_report_too(folder: Path):
    (folder / "text.txt").write_text("\n".join(f"line {i} of some text" for i in range(40)))
    result = succeed("pretrain", "text.txt", "--size", "tiny", "--epochs", "1", "--batch-size", "4")
    assert "report    runs/text/report.html\n" in result.stdout
    assert "The language model has a perplexity of" in Path("runs/text/report.html").read_text()
    assert not Path("runs/text/examination.json").exists()


def test_no_report_leaves_none(folder: Path):
    result = succeed("train", "train.csv", *SHORT)
    assert "report.html" not in result.stdout
    assert not Path("runs/train/report.html").exists()
    succeed("report", "runs/train")
    assert "of 6 validation texts" in Path("runs/train/report.html").read_text()


@pytest.mark.parametrize("error", run_report.FAILURES)
def test_a_report_that_fails_is_said_and_loses_no_model(
    error: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise error("it broke")

    monkeypatch.setattr(run_report, "_examine", fail)
    monkeypatch.setattr("ulmfit_fast.commands.train._execute", said_only)
    warned = run("train", "train.csv", *WITH_REPORT)
    assert warned.exit_code == 0
    line = (
        "warning: the model is saved, but its report failed: it broke; to try again: "
        "ulmfit-fast report somewhere\n"
    )
    assert line in warned.stderr
    assert "Traceback" not in warned.stderr
    assert "Traceback" in run("train", "train.csv", *WITH_REPORT, "--debug").stderr


def said_only(described: Run, *_: object) -> None:
    """Make the report of a run that is not made; what examines the trainer was replaced."""
    trainer = cast(ULMFiTTrainer, None)
    run_report.make_report(
        trainer, run_report.parts_of(described.data), Path("somewhere"), Terminal()
    )


def test_the_model_stands_before_the_report_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(trainer: object, data: object, place: Path) -> None:
        assert (place / "model" / "model.safetensors").is_file()
        assert (place / "run.json").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(run_report, "_examine", fail)
    assert run("train", "train.csv", *WITH_REPORT).exit_code == 130
    succeed("predict", "runs/train", "test.csv")


def test_memory_and_name_of_a_gpu_are_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    peaks, machine = peak_memory("cuda:0"), environment()
    assert peaks["gpu_bytes"] == 3 * 2**30
    assert "gpu_bytes" not in peak_memory("cpu")
    values = {**run_values(), "peak_memory": peaks, "environment": machine}
    place = write_run(tmp_path / "run", draw_examination(50), values, has_log=False)
    succeed("report", place)
    page = (place / "report.html").read_text()
    assert "Most memory of the GPU: <b>3.00 GiB</b>" in page
    assert "Tesla T4" in page


def test_a_report_is_made_anew_from_the_folder(tmp_path: Path):
    place = write_run(tmp_path / "run", draw_examination(50), has_log=False)
    result = json_of(succeed("report", place, "--json"))
    assert result == {
        "report": str(place / "report.html"), "n_bytes": (place / "report.html").stat().st_size
    }  # fmt: skip
    succeed("report", place, "--out", tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == (place / "report.html").read_bytes()


def test_open_starts_a_browser_or_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = write_run(tmp_path / "run", draw_examination(50), has_log=False)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: not opened.append(url))
    assert succeed("report", place, "--open").stderr == ""
    assert opened == [(place / "report.html").resolve().as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    assert "no browser could be started" in succeed("report", place, "--open").stderr


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path):
    result = run("report", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path}: no run.json")
    assert result.stderr.count("\n") == 1


def test_report_needs_no_torch(tmp_path: Path):
    place = write_run(tmp_path / "run", draw_examination(50), has_log=False)
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from ulmfit_fast.cli import main\n"
        f"main(['report', {str(place)!r}])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_help_shows_an_example_and_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from ulmfit_fast.cli import main\n"
        "main(['report', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'jinja2', 'rich'} & {*sys.modules}"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.rstrip().splitlines()
    assert "Example: ulmfit-fast report runs/reviews --open" in ran.stdout
