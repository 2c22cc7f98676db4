"""`train --log-to`: trackers are begun, told, ended, and never the end of a training."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from cli_runs import SHORT, run, succeed, write_rows
from test_loggers_tracked_run import FakeTracker

from ulmfit_fast.commands.loggers import RUN_ID, TENSORBOARD, _steps_before


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTracker]:
    """A tracker of this name, and train.csv in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.csv", 60)
    fake = FakeTracker("wandb")
    fake.__spec__ = ModuleSpec("wandb", None, origin="fake")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sys.modules.pop("ulmfit_fast.loggers.wandb", None)
    yield fake
    sys.modules.pop("ulmfit_fast.loggers.wandb", None)


def test_a_run_is_told_to_all_trackers_asked_for(wandb: FakeTracker) -> None:
    pytest.importorskip("tensorboard")
    said = succeed(
        "train", "train.csv", "--out", "run", *SHORT, "--no-report", "--json",
        "--log-to", "tensorboard", "--log-to", "wandb", "--log-to", "wandb",
    )  # fmt: skip
    json.loads(said.stdout)  # and nothing of the tracker's
    assert list(Path("run", TENSORBOARD).glob("events.*"))
    (tracked,) = wandb.runs
    assert tracked.n_finished == 1
    assert tracked.options["name"] == "run"
    assert tracked.options["id"] == Path("run", RUN_ID).read_text().strip()
    config = tracked.options["config"]
    assert json.loads(json.dumps(config)) == json.loads(json.dumps(config, allow_nan=False))
    assert (config["size"], config["train"]["seed"]) == ("tiny", 0)
    assert config["environment"]["torch"]
    log = Path("run/metrics.jsonl").read_text().splitlines()
    n_steps = sum(json.loads(line)["event"] == "step" for line in log)
    assert tracked.calls[-1][0] == n_steps


def test_a_tracker_that_fails_is_warned_of_and_the_run_is_whole(
    wandb: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("test_loggers_tracked_run")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to \x1b[31mhost")

    monkeypatch.setattr(module.FakeRun, "log", fail)
    said = succeed("train", "train.csv", "--out", "run", *SHORT, "--no-report", "--log-to", "wandb")
    warnings = [line for line in said.stderr.splitlines() if line.startswith("warning: wandb")]
    assert warnings == [
        "warning: wandb failed, the training goes on without it (ConnectionError: no route to "
        "\\x1b[31mhost)"
    ]
    assert Path("run/model/model.safetensors").is_file()
    assert wandb.runs[0].n_finished == 1


def test_a_tracker_that_cannot_begin_ends_the_command_before_any_work(wandb: FakeTracker) -> None:
    wandb.error = RuntimeError("no API key configured")
    refused = run("train", "train.csv", "--out", "run", *SHORT, "--log-to", "wandb")
    assert refused.exit_code == 2
    assert "error: wandb cannot begin a run: RuntimeError: no API key" in refused.stderr
    assert not list(Path().glob("run*"))


def test_a_training_that_fails_ends_its_trackers_too(
    wandb: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ulmfit_fast.ULMFiTTrainer.train_classifier", stop)
    stopped = run("train", "train.csv", "--out", "run", *SHORT, "--log-to", "wandb")
    assert stopped.exit_code == 130
    assert wandb.runs[0].n_finished == 1
    assert wandb.runs[0].calls


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_missing_library_is_said_at_once(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulmfit_fast.cli.options.find_spec", lambda name: None)
    refused = run("train", tmp_path / "none.csv", "--log-to", tracker)
    assert refused.exit_code == 2
    assert f'{tracker} is not installed: pip install "ulmfit_fast[{tracker}]"' in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_folder_of_the_name_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb leaves such a folder where it ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("trackio", "wandb"):
        if importlib.util.find_spec(name) is None:
            (tmp_path / name).mkdir()
            importlib.invalidate_caches()
            assert "is not installed" in run("train", "none.csv", "--log-to", name).stderr


def test_steps_before_are_those_of_every_stage_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert _steps_before(log) == {}
    events = [
        {"event": "stage_started", "stage": "pretrain"},
        {"event": "step", "stage": "pretrain", "step": 20},
        {"event": "step", "stage": "pretrain", "step": 33},
        {"event": "stage_ended", "stage": "pretrain"},
        {"event": "stage_started", "stage": "classifier"},
        {"event": "step", "stage": "classifier", "step": 5},
    ]
    log.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "st')
    assert _steps_before(log) == {"pretrain": 33, "classifier": 5}


def test_a_resumed_run_is_the_same_for_its_trackers(wandb: FakeTracker) -> None:
    """Stopped in the classifier after some steps, by a tracker that asks for it as Ctrl-C does."""
    module = importlib.import_module("test_loggers_tracked_run")
    whole = ["train", "train.csv", *SHORT, "--no-report", "--log-to", "wandb"]
    succeed(*whole, "--out", "whole")

    def stop(run: object, metrics: dict[str, float], step: int | None = None) -> None:
        told(run, metrics, step)
        if "classifier/epoch" in metrics:
            os.kill(os.getpid(), signal.SIGINT)

    told = module.FakeRun.log
    module.FakeRun.log = stop
    try:
        stopped = run(*whole, "--out", "again")
    finally:
        module.FakeRun.log = told
    assert stopped.exit_code == 130
    succeed("train", "--resume", "again")
    once, first, second = wandb.runs
    assert first.options["id"] == second.options["id"] != once.options["id"]

    def losses(*runs: object) -> dict[tuple[int, str], float]:
        return {
            (step, name): value
            for tracked in runs
            for step, metrics in tracked.calls
            for name, value in metrics.items()
            if name.endswith(("loss", "beta1"))
        }

    assert losses(first, second) == losses(once)
