"""Trackers with wandb's interface: the calls they get, and themselves where they are installed."""

from __future__ import annotations

import importlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_training import small_config, train_all
from test_loggers_metrics import Steps, step_of

from ulmfit_fast import InputError


class FakeRun:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.calls: list[tuple[int | None, dict[str, float]]] = []
        self.n_finished = 0

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append((step, metrics))
        print("tracker: logged")

    def finish(self) -> None:
        self.n_finished += 1
        print("tracker: uploading")


class FakeTracker(ModuleType):
    """A module with wandb's and trackio's init."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.runs: list[FakeRun] = []
        self.error: Exception | None = None

    def init(self, **options: Any) -> FakeRun:
        print("tracker: hello")
        if self.error is not None:
            raise self.error
        self.runs.append(FakeRun(options))
        return self.runs[-1]

    def finish(self) -> None:
        """End the current run; trackio's."""
        self.runs[-1].finish()


CLASSES = {"wandb": "WandbLogger", "trackio": "TrackioLogger"}


@pytest.fixture(params=CLASSES)
def tracker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeTracker]:
    fake = FakeTracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    sys.modules.pop(f"ulmfit_fast.loggers.{request.param}", None)
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield fake
    sys.modules.pop(f"ulmfit_fast.loggers.{request.param}", None)  # it has the fake's functions


def class_of(tracker: str) -> Any:
    return getattr(importlib.import_module(f"ulmfit_fast.loggers.{tracker}"), CLASSES[tracker])


def test_a_run_is_begun_told_and_ended(tracker: FakeTracker, capsys: Any) -> None:
    config = {"train": {"seed": 0}}
    logger, steps = class_of(tracker.__name__)("films", config), Steps()
    train_all(small_config(), (logger, steps))
    logger.close()
    logger.close()
    (run,) = tracker.runs
    assert run.options["project"] == "ulmfit_fast"
    assert run.options["name"] == "films"
    assert run.options["config"] == config
    assert run.n_finished == 1
    numbers = [step for step, metrics in run.calls if any("/beta1" in name for name in metrics)]
    assert numbers == list(range(1, len(steps.steps) + 1))
    assert run.calls[-1][1]["classifier/seconds"] > 0
    out, err = capsys.readouterr()
    assert [line in err for line in ("hello", "logged", "uploading")] == [True] * 3
    assert "tracker" not in out


def test_projects_are_those_of_the_environment(
    tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{tracker.__name__.upper()}_PROJECT", "mine")
    class_of(tracker.__name__)("films")
    class_of(tracker.__name__)("films", project="given")
    assert [run.options["project"] for run in tracker.runs] == ["mine", "given"]


def test_a_tracker_that_cannot_begin_is_one_line(tracker: FakeTracker) -> None:
    tracker.error = RuntimeError("no login\nrun: login")
    with pytest.raises(InputError, match="cannot begin a run: RuntimeError: no login") as caught:
        class_of(tracker.__name__)("films")
    assert str(caught.value).isprintable()


def test_a_resumed_run_goes_on(tracker: FakeTracker) -> None:
    options = {"run_id": "abcd"} if tracker.__name__ == "wandb" else {"resume": True}
    before = {"pretrain": 7}
    logger = class_of(tracker.__name__)("films", steps_before=before, **options)
    logger.step(step_of("classifier", 2))
    assert tracker.runs[0].options["resume"] == "allow"
    assert tracker.runs[0].calls[0][0] == 9


@pytest.mark.parametrize("name", CLASSES)
def test_without_the_library_it_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"ulmfit_fast.loggers.{name}", raising=False)
    with pytest.raises(ImportError, match=rf'pip install "ulmfit_fast\[{name}\]"'):
        class_of(name)


def need(library: str) -> None:
    """Skip a test without a library; a folder of its name, as wandb leaves, is none."""
    if getattr(pytest.importorskip(library), "__file__", None) is None:
        pytest.skip(f"{library} is a folder, not the library")


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = class_of("wandb")("films", {"a": 1}, folder=tmp_path, run_id="abcd1234")
    for number in range(1, 4):
        logger.step(step_of("classifier", number))
    logger.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-abcd1234.wandb")
    content = file.read_bytes()
    assert b"classifier/loss" in content
    assert b"classifier/lr/head" in content


def test_trackio_itself_on_this_machine(tmp_path: Path) -> None:
    need("trackio")
    code = (
        "from ulmfit_fast.loggers.trackio import TrackioLogger\n"
        "from test_loggers_metrics import step_of\n"
        "logger = TrackioLogger('films', {'a': 1}, project='test')\n"
        "for number in range(1, 4): logger.step(step_of('classifier', number))\n"
        "logger.close()\n"
    )
    # It reads the variable when it is imported, so it is a program of its own.
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    (file,) = tmp_path.rglob("test.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [1, 2, 3]
    assert json.loads(rows[0][1])["classifier/lr/head"] == 0.01
