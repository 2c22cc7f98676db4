"""What a restart by torchrun goes on with, and what it leaves alone; who talks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ulmfit_fast import TrainingStopped
from ulmfit_fast.commands.choices import Settings, choose
from ulmfit_fast.commands.data import Files
from ulmfit_fast.commands.ranked import after_restart, note_stop
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.commands.train_options import RECORD, TrainOptions, how_to_go_on
from ulmfit_fast.training import launch

LAUNCH = "this one"


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The second of two processes, started for the second time."""
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "TORCHELASTIC_RESTART_COUNT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return monkeypatch


def options(out: Path, *, overwrite: bool = False) -> TrainOptions:
    return TrainOptions(Files("rows.csv"), Settings(), out=out, overwrite=overwrite)


def unfinished(place: Path, launch_id: str = LAUNCH) -> Path:
    folder = place / "run.unfinished"
    folder.mkdir()
    (folder / RECORD).write_text(json.dumps({"launch": launch_id}))
    return folder


def finished(place: Path, launch_id: str = LAUNCH) -> Path:
    folder = place / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"launch": launch_id}))
    return folder


def resumed_by_restart(out: Path, *, overwrite: bool = False) -> Path | None:
    return after_restart(options(out, overwrite=overwrite), "train", LAUNCH).resume


def test_one_process_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without variables, nor with some of them, which other programs set, too."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (launch.rank(), launch.world_size(), launch.is_first()) == (0, 1, True)
    assert launch.n_restarts() == launch.local_rank() == launch.node() == 0


def test_a_restart_goes_on_with_its_run(torchrun: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert resumed_by_restart(out) is None  # it never came to a folder
    unfinished(tmp_path)
    assert resumed_by_restart(out) == out
    assert resumed_by_restart(out, overwrite=True) == out
    torchrun.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert resumed_by_restart(out) is None


@pytest.mark.usefixtures("torchrun")
def test_a_restart_does_not_replace_its_run_that_is_finished(tmp_path: Path) -> None:
    out = finished(tmp_path)
    assert resumed_by_restart(out) == resumed_by_restart(out, overwrite=True) == out


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize("launch_id", ["another", ""])
@pytest.mark.parametrize("make", [unfinished, finished])
def test_a_restart_leaves_runs_of_before_to_what_the_first_start_does(
    tmp_path: Path, make: Callable[[Path, str], Path], launch_id: str
) -> None:
    """Neither gone on with nor taken for this one's, which was refused or is to replace them."""
    make(tmp_path, launch_id)
    for overwrite in (False, True):
        assert resumed_by_restart(tmp_path / "run", overwrite=overwrite) is None


@pytest.mark.usefixtures("torchrun")
def test_a_time_limit_is_no_failure_to_restart_from(tmp_path: Path) -> None:
    folder, out = unfinished(tmp_path), tmp_path / "run"
    note_stop(folder, TrainingStopped("it is late"), LAUNCH)
    with pytest.raises(TrainingStopped, match="--resume"):
        resumed_by_restart(out)
    assert after_restart(options(out), "train", "another").resume is None
    note_stop(folder, None, LAUNCH)
    assert resumed_by_restart(out) == out
    note_stop(folder, TrainingStopped("stopped", 15), LAUNCH)
    assert resumed_by_restart(out) == out


def test_how_to_go_on_names_torchrun(torchrun: pytest.MonkeyPatch) -> None:
    command = "-m ulmfit_fast train --resume runs/a"
    assert how_to_go_on("train", Path("runs/a")) == f"torchrun --nproc-per-node 2 {command}"
    torchrun.setenv("WORLD_SIZE", "16")
    assert how_to_go_on("train", Path("runs/a")) == f"torchrun ... {command}"


def test_a_silent_terminal_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        terminal = Terminal(as_json=as_json, is_silent=True)
        terminal.say("a")
        terminal.fact("a", "b")
        terminal.warn("a")
        terminal.result({"a": 1})
        terminal.table([["a"], ["b"]])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("processes", "rows"), [(1, 64), (2, 32), (8, 8), (64, 8)])
def test_processes_share_the_rows_that_are_chosen(processes: int, rows: int) -> None:
    """An epoch keeps its hundred steps as long as there are rows enough to share."""
    settings = Settings(device="cpu", processes=processes)
    choices = choose(settings, {"pretrain": 400_000}, 6_500, "pretrain")
    assert choices.config.classifier.batch_size == rows
    assert choices.config.pretrain.batch_size == rows
