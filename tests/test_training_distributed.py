"""Several processes: the same training as one, whatever stops it, whoever goes on with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import ranked_runs
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked_runs import N_RANKS, NO_DROPOUT, begin, config, go_on, stop_at, train
from small_training import draw_texts
from torch import Tensor, nn
from torchrun import ENVIRONMENT, launch

from ulmfit_fast import AWDLSTMConfig, TextClassifier
from ulmfit_fast.text.batches import share_of
from ulmfit_fast.training.ranked_steps import RankedBatchNorm
from ulmfit_fast.training.ranks import Ranks


def are_close(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Tell whether two trainings are the same to rounding."""
    weights = all(
        torch.allclose(a["weights"][name].double(), b["weights"][name].double(), atol=1e-4)
        for name in a["weights"] | b["weights"]
    )
    return weights and a["losses"] == pytest.approx(b["losses"], abs=1e-4)


def are_equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Tell whether two trainings have the same weights and metrics, bit for bit."""
    same = all(torch.equal(a["weights"][n], b["weights"][n]) for n in a["weights"] | b["weights"])
    return same and a["results"] == b["results"]


class Trainings:
    """What the trainings of this file gave: in one process, and in each of several."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Dropout, "forward", lambda _, x: x)
            plain = config(NO_DROPOUT, 1)
            self.alone = train(begin(plain))
            stop_at(place / "by one", plain, "pretrain", 3)
            process = launch(ROOT / "tests" / "ranked_runs.py", place)
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
            ranked_runs.warnings.clear()
            self.begun_by_two = go_on(place / "by two")
            self.warnings = list(ranked_runs.warnings)
        self.ranks = [
            torch.load(place / f"rank{rank}.pt", weights_only=True) for rank in range(N_RANKS)
        ]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("ranked"))


def test_ranks_train_as_one_process_with_all_rows(trainings: Trainings) -> None:
    """Losses of every step, and weights after 100 of them, in all three stages."""
    for rank in trainings.ranks:
        assert are_equal(rank["plain"], trainings.ranks[0]["plain"])
    assert are_close(trainings.ranks[0]["plain"], trainings.alone)
    tokens = [result["n_tokens"] for result in trainings.alone["results"]]
    assert [r["n_tokens"] for r in trainings.ranks[1]["plain"]["results"]] == tokens


def test_with_dropout_every_rank_has_masks_of_its_own_and_the_same_weights(
    trainings: Trainings,
) -> None:
    first, second = (rank["dropped"] for rank in trainings.ranks)
    assert are_equal(first, second)
    assert not are_close(first, trainings.ranks[0]["plain"])


def test_a_stop_that_one_rank_is_asked_for_stops_all_and_goes_on_bit_for_bit(
    trainings: Trainings,
) -> None:
    for rank in trainings.ranks:
        assert are_equal(rank["dropped, went on"], rank["dropped"])


def test_another_number_of_processes_goes_on_with_the_same_rows(trainings: Trainings) -> None:
    """One with what two began, two with what one began."""
    left = trainings.begun_by_two["losses"]
    assert left == pytest.approx(trainings.alone["losses"][-len(left) :], abs=1e-4)
    for name, tensor in trainings.begun_by_two["weights"].items():
        assert torch.allclose(tensor.double(), trainings.alone["weights"][name].double(), atol=1e-4)
    for rank in trainings.ranks:
        found = rank["plain, begun by one"]
        for name, tensor in found["weights"].items():
            expected = trainings.alone["weights"][name]
            assert torch.allclose(tensor.double(), expected.double(), atol=1e-4)
    assert trainings.warnings == [
        "begun by 2 processes, going on in 1 process: batches stay as they were, all rows "
        "together; masks are others"
    ]
    assert "begun by 1 process, going on in 2 processes" in trainings.ranks[0]["warnings"][0]
    assert not trainings.ranks[1]["warnings"]


def test_a_loss_that_is_not_finite_in_one_rank_is_skipped_by_all(trainings: Trainings) -> None:
    first, second = (rank["poisoned"] for rank in trainings.ranks)
    assert are_equal(first, second)
    skipped = [epoch.get("skipped_steps", 0) for epoch in first["results"][0]["epochs"]]
    assert sum(skipped) == 1
    assert all(weights.isfinite().all() for weights in first["weights"].values())


def test_ranks_talk(trainings: Trainings) -> None:
    for rank in trainings.ranks:
        assert rank["made by the first"] == b"rank 0"
        assert "the 2 processes have different numbers" in rank["different"]


class ThreadRanks(Ranks):
    """Threads in place of processes: sums that meet at a barrier."""

    def __init__(self, rank: int, size: int, shared: dict[str, Any]) -> None:
        super().__init__()
        self.rank, self.size, self._shared = rank, size, shared

    def sum(self, tensor: Tensor) -> Tensor:
        self._shared["parts"][self.rank] = tensor
        self._shared["barrier"].wait(30)
        found = sum(self._shared["parts"])
        self._shared["barrier"].wait(30)
        return tensor.copy_(found)


class NotedRanks(Ranks):
    """One process that notes what it would talk about."""

    def __init__(self) -> None:
        super().__init__()
        self.talked: list[str] = []

    def meet(self, what: str) -> None:
        self.talked.append(what)

    def sum(self, tensor: Tensor) -> Tensor:
        self.talked.append("sum")
        return tensor


def test_ranks_meet_after_a_validation_which_may_take_one_of_them_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = NotedRanks()
    monkeypatch.setattr("ulmfit_fast.training.tasks.here", lambda: ranks)
    texts, _ = draw_texts(8)
    begin(config(NO_DROPOUT, 1)).pretrain(texts, texts)
    assert ranks.talked == ["validation", "sum"] * 3


@pytest.mark.parametrize("shares", [[4, 4], [5, 0, 3], [1, 1, 1], [7, 1]])
def test_a_batch_norm_sees_the_rows_of_all_ranks(shares: list[int]) -> None:
    """As torch's does with all rows, also where a rank has one or none."""
    torch.manual_seed(0)
    x, upstream = torch.randn(sum(shares), 6) * 3 + 5, torch.randn(sum(shares), 6)
    whole = nn.BatchNorm1d(6)
    norms = [nn.BatchNorm1d(6) for _ in shares]
    with torch.no_grad():
        for norm in (whole, *norms):
            norm.weight.copy_(torch.arange(6) + 1.0)
    leaf = x.clone().requires_grad_()
    expected = whole(leaf)
    expected.backward(upstream)
    shared: dict[str, Any] = {
        "parts": [None] * len(shares), "barrier": threading.Barrier(len(shares)),
    }  # fmt: skip
    parts = [part.clone().requires_grad_() for part in x.split(shares)]
    found: list[Any] = [None] * len(shares)

    def run_rank(rank: int) -> None:
        norm = RankedBatchNorm.of(norms[rank], ThreadRanks(rank, len(shares), shared))
        found[rank] = norm(parts[rank])
        found[rank].backward(upstream.split(shares)[rank])

    threads = [threading.Thread(target=run_rank, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.allclose(torch.cat([y.detach() for y in found]), expected.detach(), atol=1e-5)
    assert torch.allclose(torch.cat([p.grad for p in parts]), leaf.grad, atol=1e-5)
    for name in ("weight", "bias"):
        grads = [getattr(norm, name).grad for norm in norms]
        assert torch.allclose(sum(grads), getattr(whole, name).grad, atol=1e-4)
    for norm in norms:
        for name, buffer in whole.named_buffers():
            assert torch.allclose(dict(norm.named_buffers())[name], buffer, atol=1e-5)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 4))
def test_losses_of_parts_are_that_of_the_whole_batch(lengths: list[int], n_parts: int) -> None:
    """Cross-entropy and both regularisations, weighted by rows; without documents too."""
    torch.manual_seed(0)
    model = TextClassifier(AWDLSTMConfig(30, 4, 6, n_layers=2), 3, bptt=5, max_len=12).eval()
    lengths = sorted(lengths, reverse=True)
    ids = torch.full((len(lengths), lengths[0]), model.config.pad_id)
    for row, n in enumerate(lengths):
        ids[row, :n] = torch.randint(2, 30, (n,))
    labels, sizes = torch.randint(3, (len(lengths),)), torch.tensor(lengths)
    parts, _ = model.loss(ids, sizes, labels, 2.0, 1.0)
    parts.total.backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    total = torch.zeros(())
    for part in range(n_parts):
        rows = torch.arange(len(lengths))[part::n_parts]
        shown = rows if len(rows) else torch.tensor([len(lengths) - 1])
        own, longest = sizes[shown], int(sizes[shown].max())
        found, _ = model.loss(ids[shown, :longest], own, labels[rows], 2.0, 1.0, sizes)
        weighted = found.total * (len(rows) / len(lengths))
        weighted.backward()
        total += weighted.detach()
    assert torch.allclose(total, parts.total.detach(), rtol=1e-5, atol=1e-6)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    for grad, wanted in zip(grads, expected, strict=True):
        assert torch.allclose(grad, wanted, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_neighbours_that_differ_by_one_row_at_most(n_rows: int, size: int) -> None:
    shares = [share_of(n_rows, rank, size) for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(n_rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


WITHOUT_PROCESS_GROUPS = """
import sys, torch
torch.distributed.is_available = lambda: False
for name in (
    "torch.distributed.rendezvous", "ulmfit_fast.training.joined_ranks",
    "ulmfit_fast.training.ranked_steps",
):
    sys.modules[name] = None  # an import of it fails
from ranked_runs import NO_DROPOUT, begin, config
from small_training import draw_texts
begin(config(NO_DROPOUT, 1)).pretrain(draw_texts(8)[0])
"""


def test_one_process_trains_with_a_torch_that_has_no_process_groups() -> None:
    program = [sys.executable, "-c", WITHOUT_PROCESS_GROUPS]
    subprocess.run(program, env=ENVIRONMENT, check=True, timeout=120)
