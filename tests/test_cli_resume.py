"""`train --resume` on the command line: signals, kills, time limits, full disks, changed files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runs import CACHE, SHORT, files_under, run, succeed, write_rows
from conftest import ROOT
from kill_training import kill_often
from resume_runs import log_of, without_times

from ulmfit_fast import TrainingError
from ulmfit_fast.training import resume
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.progress import ConsoleProgress


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that is in a finished run, without times."""
    files = files_under(folder)
    summary = without_times(json.loads(files.pop("run.json")))
    for name in ("out", "peak_memory", "command"):
        summary.pop(name, None)
    files.pop("metrics.jsonl")
    return {"files": files, "log": log_of(folder), "summary": summary}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that nobody stopped."""
    place = tmp_path_factory.mktemp("whole")
    write_rows(place / "train.csv", 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        succeed("train", "train.csv", *SHORT)
    return outcome(place / "runs" / "train")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rows(tmp_path / "train.csv", 60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def act_at(monkeypatch: pytest.MonkeyPatch, stage: str, number: int, act: Any) -> None:
    """Do something at a step, once in the test."""
    acts = [act]

    def step(_: Observer, told: Step) -> None:
        if acts and (told.stage, told.step) == (stage, number):
            acts.pop()()

    monkeypatch.setattr(ConsoleProgress, "step", step)


def send(number: signal.Signals) -> Any:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
@pytest.mark.parametrize("stage", ["pretrain", "classifier"])
def test_a_signal_saves_and_resume_goes_on_bit_for_bit(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: dict[str, Any],
    number: signal.Signals,
    status: int,
    stage: str,
) -> None:
    act_at(monkeypatch, stage, 2, send(number))
    result = run("train", "train.csv", *SHORT)
    assert result.exit_code == status
    assert re.fullmatch(
        rf"stopped at stage {stage}, step 2 of \d+; saved; go on with: "
        "ulmfit-fast train --resume runs/train",
        result.stderr.splitlines()[-1],
    )
    again = succeed("train", "--resume", "runs/train")
    assert "next      ulmfit-fast predict runs/train FILE" in again.stdout
    assert outcome(folder / "runs" / "train") == whole
    summary = json.loads((folder / "runs" / "train" / "run.json").read_text())
    assert summary["command"].startswith("ulmfit-fast train train.csv --size tiny")
    assert succeed("train", "--resume", "runs/train").stdout == "runs/train: finished already\n"


def test_a_process_killed_by_a_signal_goes_on_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    """kill -9 of a real process after its first checkpoints; --resume from another folder."""
    command = [sys.executable, "-c", "from ulmfit_fast.cli import main; main()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": CACHE.name}
    child = subprocess.Popen(
        [*command, "train", "train.csv", *SHORT, "--checkpoint-every", "0"],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    checkpoints = folder / "runs" / "train.unfinished" / "checkpoints"
    while child.poll() is None and not list(checkpoints.glob("*-classifier-step-[1-9]*")):
        pass
    child.kill()
    child.wait()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    succeed("train", "--resume", folder / "runs" / "train")
    found = outcome(folder / "runs" / "train")
    found["summary"]["source"] = whole["summary"]["source"]
    assert found == whole


def test_a_time_limit_is_status_75(folder: Path, whole: dict[str, Any]) -> None:
    result = run("train", "train.csv", *SHORT, "--time-limit", "0s")
    assert result.exit_code == 75
    assert "stopped at stage pretrain, step 0 of" in result.stderr
    succeed("train", "--resume", "runs/train", "--time-limit", "2h")
    assert outcome(folder / "runs" / "train") == whole
    wrong = run("train", "train.csv", "--time-limit", "soon")
    assert wrong.exit_code == 2
    assert "'soon' is no time such as 2h, 45m or 1h30m" in wrong.stderr


def test_a_run_that_failed_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    def fail() -> None:
        raise TrainingError("the machine is on fire")

    act_at(monkeypatch, "classifier", 3, fail)
    result = run("train", "train.csv", *SHORT)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        "kept what was finished: runs/train.unfinished; go on with: "
        "ulmfit-fast train --resume runs/train",
        "error: the machine is on fire",
    ]
    again = run("train", "train.csv", *SHORT)
    assert "go on with it by `ulmfit-fast train --resume runs/train`" in again.stderr
    succeed("train", "--resume", "runs/train")
    assert outcome(folder / "runs" / "train") == whole


def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        act_at(patch, "pretrain", 2, send(signal.SIGTERM))
        assert run("train", "train.csv", *SHORT).exit_code == 143


def test_what_cannot_go_on_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch)
    write_rows(folder / "train.csv", 61)
    (folder / "empty").mkdir()
    for arguments, message in [
        (["train", "--resume", "runs/train"], "train.csv: missing or changed since"),
        (["pretrain", "--resume", "runs/train"], "begun by train; go on with: ulmfit-fast train"),
        (["train", "--resume", "runs/other"], "--resume runs/other: there is no run"),
        (["train", "--resume", "empty"], "--resume empty: there is no run"),
        (["train", "--resume", "runs/train", "--size", "tiny"], "--resume takes --size from the"),
        (["train", "x.csv", "--resume", "runs/train"], "--resume takes FILE from the run"),
        (["train"], "missing argument 'FILE'"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    for path in (folder / "runs" / "train.unfinished" / "checkpoints").glob("*/state.json"):
        path.write_text("{}")
    write_rows(folder / "train.csv", 60)
    result = run("train", "--resume", "runs/train")
    assert result.exit_code == 2
    assert "no checkpoint before it is whole: train again" in result.stderr


def test_two_processes_do_not_share_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch)
    found: list[str] = []

    def resume_too() -> None:
        found.append(run("train", "--resume", "runs/train").stderr)

    act_at(monkeypatch, "classifier", 1, resume_too)
    succeed("train", "--resume", "runs/train")
    assert "another training is still at it" in found[0]


def test_pretrain_goes_on_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["pretrain", "train.csv", "--size", "tiny", "--epochs", "2", "--no-report"]
    succeed(*options, "--out", "whole")
    act_at(monkeypatch, "pretrain", 2, send(signal.SIGTERM))
    assert run(*options, "--out", "lm").exit_code == 143
    succeed("pretrain", "--resume", "lm")
    assert outcome(folder / "lm") == outcome(folder / "whole")


@pytest.mark.parametrize("option", ["--base", "--general"])
def test_a_fine_tuning_goes_on_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    options = ["--lm-epochs", "2", "--epochs", "2", "--batch-size", "8", "--no-report"]
    succeed("pretrain", "train.csv", "--size", "tiny", "--epochs", "1", "--out", "lm")
    write_rows(folder / "general.csv", 40, seed=5)
    options += ["--base", "lm"] if option == "--base" else ["--general", "general.csv"]
    options += [] if option == "--base" else ["--size", "tiny"]
    succeed("train", "train.csv", *options, "--out", "whole")
    with monkeypatch.context() as patch:
        act_at(patch, "language_model", 2, send(signal.SIGTERM))
        result = run("train", "train.csv", *options, "--out", "stopped")
    assert result.exit_code == 143
    assert "stopped at stage language_model, step 2" in result.stderr
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    succeed("train", "--resume", folder / "stopped")
    monkeypatch.chdir(folder)
    found, expected = outcome(folder / "stopped"), outcome(folder / "whole")
    assert found["files"] == expected["files"]
    assert found["log"] == expected["log"]


def test_a_full_disk_does_not_end_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "write_snapshot", full)
    result = succeed("train", "train.csv", *SHORT, "--checkpoint-every", "0")
    assert result.stderr.count("No space left on device") == 1
    assert (
        "warning: cannot write a checkpoint to runs/train.unfinished/checkpoints" in result.stderr
    )
    assert outcome(folder / "runs" / "train") == whole


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_nothing_is_lost_or_differs_after_kills(tmp_path: Path) -> None:
    """A few moments of the 200 of `python tests/kill_training.py`."""
    count = kill_often(6, tmp_path, seed=1)
    assert count.n_kills == 6
    assert (count.n_lost, count.n_differing) == (0, 0)
    assert count.n_finished >= 1
