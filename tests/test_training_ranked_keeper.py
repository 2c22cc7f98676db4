"""Checkpoints of several processes: what each takes of one, and memory that is full in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranked_runs import NO_DROPOUT, config, stop_at
from resume_runs import make_checkpoints
from torch import Tensor

from ulmfit_fast import TrainingError
from ulmfit_fast.training.keeper import Place, StageState
from ulmfit_fast.training.ranked_keeper import RankedKeeper
from ulmfit_fast.training.ranks import Ranks
from ulmfit_fast.training.snapshot import Snapshot

PLACE = Place("pretrain", 3, 10)


class OneOfTwo(Ranks):
    """A process of two, whose other one has what is given as flags."""

    size = 2

    def __init__(self, rank: int, others: list[bool] | None = None) -> None:
        super().__init__()
        self.rank, self._others = rank, others or []

    def any(self, *flags: bool) -> list[bool]:
        if len(flags) == 1 and self._others:
            return [flags[0] or self._others.pop()]
        return list(flags)

    def gather(self, tensor: Tensor, counts: list[int]) -> Tensor:
        raise AssertionError("the other process does not come")


def keeper(folder: Path, ranks: Ranks, state: StageState | None = None) -> RankedKeeper:
    frame = Snapshot({"stage": "pretrain", "index": 0}, {}, None)
    checkpoints = make_checkpoints(folder, warn=warnings.append)
    return RankedKeeper(checkpoints, frame, state, ranks=ranks, n_rows=4, seed=0)


warnings: list[str] = []


def begun_on_gpus(n_ranks: int) -> StageState:
    cpu = torch.get_rng_state()
    tensors = {
        "generator/cpu": cpu, "generator/cuda": torch.zeros(16, dtype=torch.uint8),
        "lstm/0/h": torch.arange(8.0).view(4, 2), "model/bias": torch.ones(3),
    }  # fmt: skip
    return StageState({"ranks": n_ranks, "progress": {"step": 5}}, tensors)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("n_ranks", [2, 4])
def test_a_run_begun_on_gpus_goes_on_without(tmp_path: Path, n_ranks: int) -> None:
    own = keeper(tmp_path, OneOfTwo(1), begun_on_gpus(n_ranks)).begun()
    assert own is not None
    assert set(own.tensors) == {"generator/cpu", "lstm/0/h", "model/bias"}
    assert own.tensors["lstm/0/h"].tolist() == [[4.0, 5.0], [6.0, 7.0]]


def test_what_a_process_goes_on_from_is_not_kept(tmp_path: Path) -> None:
    """It has the rows and the generators of all."""
    state = begun_on_gpus(2)
    del state.tensors["generator/cuda"]
    kept = keeper(tmp_path, OneOfTwo(0), state)
    assert kept.begun() is not None
    assert not state.tensors
    assert kept.begun() is None


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_all_go_on_without_a_checkpoint_where_memory_is_full_in_one(
    tmp_path: Path, is_elsewhere: bool
) -> None:
    def capture() -> StageState:
        if is_elsewhere:
            return StageState({}, {})
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    warnings.clear()
    kept = keeper(tmp_path, OneOfTwo(0, [True, True]), None)
    kept.keep(PLACE, capture, at_once=True)
    assert len(warnings) == 1
    assert "training goes on" in warnings[0]
    with pytest.raises(TrainingError, match="but not saved"):
        kept.stop(PLACE, capture)


def test_processes_that_see_other_checkpoints_do_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they compare differs from one checkpoint to the next, and from none."""
    compared: list[str] = []

    class Compares(Ranks):
        def check_same(self, content: str, what: str) -> None:
            compared.append(content)
            assert what == "checkpoints"

    monkeypatch.setattr("ulmfit_fast.training.resume.here", Compares)
    make_checkpoints(tmp_path).find()
    settings = config(NO_DROPOUT, 1)
    for step in (2, 3):
        stop_at(tmp_path / str(step), settings, "pretrain", step)
        for _ in range(2):
            make_checkpoints(tmp_path / str(step)).find()
    none, *found = compared
    assert none == "None"
    assert found[0] == found[1] != found[2] == found[3]
