"""torchrun: what a killed process, a hanging one and a restart lead to, what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cli_runs import run, succeed, write_rows
from torchrun import launch

from ulmfit_fast import InputError
from ulmfit_fast.training.device import choose_device
from ulmfit_fast.training.loop import Fit
from ulmfit_fast.training.ranks import Ranks
from ulmfit_fast.training.resume import Checkpoints

OPTIONS = [
    *("--size", "tiny", "--lm-epochs", "1", "--epochs", "4", "--batch-size", "8", "--no-report"),
    *("--checkpoint-every", "0"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rows(tmp_path / "train.csv", 60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """Return the processes that a launcher has started, by rank."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) != launcher.pid:
                continue
            variables = (status.parent / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):  # it has ended meanwhile
            continue
        rank = next((v for v in variables if v.startswith(b"RANK=")), None)
        if rank is not None:
            found[int(rank[5:])] = int(status.parent.name)
    return [found[rank] for rank in sorted(found)]


def wait_for(launcher: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Wait until a checkpoint is there."""
    checkpoints = folder / "runs" / "train.unfinished" / "checkpoints"
    while launcher.poll() is None and not list(checkpoints.glob(pattern)):
        time.sleep(0.01)
    assert launcher.poll() is None, launcher.communicate()[0]


def steps_of(folder: Path) -> Iterator[tuple[str, int]]:
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if values.get("event") == "step":
            yield values["stage"], values["step"]


def test_torchrun_restarts_what_a_kill_ended_and_it_goes_on(folder: Path) -> None:
    launcher = launch("--max-restarts=1", "-m", "ulmfit_fast", "train", "train.csv", *OPTIONS)
    wait_for(launcher, folder, "*-classifier-step-[1-9]*")
    os.kill(ranks_of(launcher)[1], signal.SIGKILL)
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, output
    said = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(said) == 1, output
    assert said[0].startswith("error: stage classifier, step ")
    assert re.search("another process of this training|rank 1 has not been heard of", said[0])
    assert said[0].endswith(
        "; go on with: torchrun --nproc-per-node 2 -m ulmfit_fast train --resume runs/train"
    )
    assert "Traceback" not in output.partition("ChildFailedError")[0]
    assert output.count("model     runs/train/model") == 1
    steps = list(steps_of(folder / "runs" / "train"))
    assert len(steps) == len(set(steps))
    assert json.loads((folder / "runs" / "train" / "run.json").read_text())["processes"] == 2


def test_a_restart_refuses_a_run_of_before_as_the_first_start_does(folder: Path) -> None:
    (folder / "runs" / "train").mkdir(parents=True)
    launcher = launch("--max-restarts=1", "-m", "ulmfit_fast", "train", "train.csv", *OPTIONS)
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode != 0, output
    said = [line for line in output.splitlines() if line.startswith("error: runs/train: this")]
    assert len(said) == 2, output  # at the first start and at the second
    assert not list((folder / "runs" / "train").iterdir())


def test_a_rank_that_hangs_ends_the_job_and_one_process_goes_on(folder: Path) -> None:
    timeout_s = 10
    launcher = launch(
        "-m", "ulmfit_fast", "train", "train.csv", *OPTIONS, "--rank-timeout", timeout_s
    )
    wait_for(launcher, folder, "*-classifier-step-[1-9]*")
    first, second = ranks_of(launcher)
    os.kill(second, signal.SIGSTOP)
    began = time.monotonic()
    while Path(f"/proc/{first}").exists() and time.monotonic() - began < 3 * timeout_s:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    os.kill(second, signal.SIGKILL)  # as torchrun does in the end
    output, _ = launcher.communicate(timeout=120)
    assert timeout_s - 2 <= seconds < 2 * timeout_s, output
    assert launcher.returncode == 1
    assert output.count("error: stage classifier, step ") == 1
    again = succeed("train", "--resume", "runs/train")
    assert "warning: begun by 2 processes, going on in 1 process" in again.stderr
    assert (folder / "runs" / "train" / "model").is_dir()


def test_one_process_is_asked_for(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Verbs that do not train, and CUDA graphs; before anything is joined."""
    for name, value in {
        "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    result = run("info")
    assert result.exit_code == 2
    assert "error: info is for one process: call it without torchrun" in result.stderr
    monkeypatch.setenv("RANK", "1")
    assert run("info").stderr == ""


@pytest.mark.parametrize("says", [True, False])
def test_an_error_that_all_processes_have_is_said_once(
    monkeypatch: pytest.MonkeyPatch, folder: Path, says: bool
) -> None:
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    ranks = Ranks()
    monkeypatch.setattr(ranks, "is_first_to_say", lambda: says)
    monkeypatch.setattr("ulmfit_fast.training.joining._joined", ranks)
    result = run("train", "missing.csv")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: rank 1: missing.csv") == says
    assert bool(result.stderr) == says


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
        "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="each on the GPU of its number: give cuda"):
        choose_device("cuda:0")


def test_graphs_are_refused_in_processes_that_no_launcher_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ulmfit_fast.training.loop.here", lambda: SimpleNamespace(size=2))
    task, anything = SimpleNamespace(has_few_shapes=True), cast("Any", object())
    with pytest.raises(InputError, match="CUDA graphs are of one process, and 2 train here"):
        Fit(cast("Any", task), anything, [], from_scratch=True, recorder=anything)


def test_a_run_keeps_the_batch_that_it_was_begun_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where four processes go on before the first checkpoint of two."""
    four = Ranks()
    four.size = 4
    monkeypatch.setattr("ulmfit_fast.training.resume.here", lambda: four)
    assert Checkpoints(tmp_path, processes=2).begun_by() == 2
    assert Checkpoints(tmp_path).begun_by() == 4
