"""A batch that does not fit into memory: the same update in parts, said once, and it goes on.

Memory runs out in fakes, in the forward or in the backward pass, above so many rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_runs import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from little_memory import B, Memory, Taken, as_on_a_gpu, batches_of, task_of
from resume_runs import At, asks_to_stop, make_checkpoints, quick_config, start, train
from small_training import draw_texts, small_config, weights_hash
from tape import TapeRecorder, settings_in_memory
from torch import Tensor

from ulmfit_fast import TrainingError, ULMFiTTrainer
from ulmfit_fast.errors import TrainingStopped
from ulmfit_fast.model import Dropouts, TextClassifier
from ulmfit_fast.training import micro_batches


@pytest.fixture(scope="module")
def whole() -> dict[tuple[str, bool], Taken]:
    """Steps on whole batches, by stage and whether the head alone learns."""
    stages = [("pretrain", False), ("classifier", False), ("classifier", True)]
    return {(s, only): Taken(s, None, only_head=only) for s, only in stages}


@pytest.mark.parametrize(
    ("stage", "only_head", "where"),
    [
        ("pretrain", False, "forward"),
        ("pretrain", False, "backward"),
        ("classifier", False, "forward"),
        ("classifier", False, "backward"),
        ("classifier", True, "forward"),  # nothing of the encoder goes backwards
    ],
)
@pytest.mark.parametrize("fits", range(1, B))
def test_gradient_in_parts_is_that_of_the_whole_batch(
    whole: dict[tuple[str, bool], Taken], stage: str, only_head: bool, where: str, fits: int
) -> None:
    """Regularisation, state that is carried, batch norm's means, chunks without gradients."""
    with pytest.MonkeyPatch.context() as patch:
        memory = Memory(patch, fits, where)
        with pytest.warns(RuntimeWarning, match=f"out of memory with {B} rows at once") as told:
            cut = Taken(stage, None, only_head=only_head)
    assert len(told) == 1
    assert memory.n_bursts > 0
    rows = cut.steps.micro_batches.limit.rows
    assert rows is not None
    assert fits // 2 <= rows <= fits
    assert f"{rows} at a time, with the same update of {B} rows" in str(told[0].message)
    assert f"--batch-size {rows} would fit" in str(told[0].message)
    cut.assert_close(whole[stage, only_head])


@pytest.mark.parametrize("stage", ["pretrain", "classifier"])
def test_what_ran_out_of_memory_leaves_no_trace(stage: str) -> None:
    """With dropouts, moving weights and batch norm: as if the rows had been few from the start."""
    dropouts = Dropouts(0.3, 0.3, 0.3, 0.1, 0.3)
    for where in ("forward", "backward"):
        with pytest.MonkeyPatch.context() as patch:
            Memory(patch, 3, where)
            with pytest.warns(RuntimeWarning):
                cut = Taken(stage, None, dropouts, lr=0.01)
        cut.assert_equal(Taken(stage, 3, dropouts, lr=0.01))


def uneven(n_rows: int, most: int) -> Iterator[slice]:
    return iter((slice(0, most), slice(most, n_rows)))


def alone(model: Any, ids: Tensor, lengths: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Encode rows as a batch of their own: others are padded less, and begin elsewhere."""
    rows = lengths.argsort(descending=True, stable=True)[part]
    longest = int(lengths[rows].max())
    pooled, output = model.encode(ids[rows, :longest], lengths[rows])
    return pooled, output


def test_wrong_parts_are_found(whole: dict[tuple[str, bool], Taken]) -> None:
    """Of 5 and 2 rows: equal shares, a state of some rows, documents that run alone."""
    encode = TextClassifier.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_batches, "parts_of", uneven)
        for stage in ("pretrain", "classifier"):
            Taken(stage, 5).assert_close(whole[stage, False])
        patch.setattr(
            TextClassifier, "encode",
            lambda model, ids, lengths, part=None, all_lengths=None: (
                encode(model, ids, lengths) if part is None else alone(model, ids, lengths, part)
            ),
        )  # fmt: skip
        with pytest.raises(AssertionError):
            Taken("classifier", 5).assert_close(whole["classifier", False])
        patch.setattr(micro_batches, "join_states", lambda states: [*states[0]])
        with pytest.raises(ValueError, match="hx: expected h_0"):
            Taken("pretrain", 5)
        patch.undo()
        backward = torch.autograd.backward
        patch.setattr(torch.autograd, "backward", lambda loss, grad: backward(loss, grad * 0 + 0.5))
        patch.setattr(micro_batches, "parts_of", uneven)
        with pytest.raises(AssertionError):
            Taken("pretrain", 5).assert_close(whole["pretrain", False])


@pytest.mark.parametrize("stage", ["pretrain", "classifier"])
def test_one_row_that_does_not_fit_ends_the_training(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(monkeypatch, 0)
    with pytest.raises(
        TrainingError, match=r"^training: out of memory with a single row; .*--size"
    ):
        Taken(stage, None)


def test_a_loss_that_is_not_finite_changes_nothing_in_parts_either() -> None:
    for stage in ("pretrain", "classifier"):
        taken = Taken(stage, 2, lr=0.01)
        with torch.no_grad():
            taken.task.model.encoder.rnns[0].weight_ih_l0[0, 0] = torch.nan
        before = weights_hash(taken.task.model)
        taken.steps.step(batches_of(stage, 1)[0], None)
        assert weights_hash(taken.task.model) == before
        assert int(taken.steps.optimizer.skipped_steps) == 1


def run_of(folder: Path, *others: At, **more: Any) -> tuple[ULMFiTTrainer, list[str]]:
    said: list[str] = []
    checkpoints = make_checkpoints(folder, warn=said.append, **more)
    return start(quick_config("fastai"), folder, checkpoints, *others), said


def test_a_run_that_ran_out_of_memory_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage says it once; a resumed run knows how many rows fit, and says nothing more."""
    Memory(monkeypatch, 3)
    trainer, said = run_of(tmp_path / "whole")
    whole = train(trainer, tmp_path / "whole")
    assert [line.partition(":")[0] for line in said] == [
        "stage pretrain", "stage language_model", "stage classifier"
    ]  # fmt: skip
    for stage in ("language_model", "classifier"):
        folder = tmp_path / stage
        checkpoints = make_checkpoints(folder, warn=said.append)
        stops = At(stage, 5, asks_to_stop(checkpoints))
        stopped = start(quick_config("fastai"), folder, checkpoints, stops)
        with pytest.raises(TrainingStopped):
            train(stopped, folder)
        trainer, said = run_of(folder)
        resumed = train(trainer, folder)
        assert [k for k in whole if resumed[k] != whole[k]] == []
        assert not any(f"stage {stage}" in line for line in said)


def test_a_trained_classifier_answers_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = draw_texts(40)
    trainer = ULMFiTTrainer(small_config().with_stage("classifier", epochs=1), size="tiny")
    trainer.train_classifier(texts, labels)
    answers, measured = trainer.predict(texts), trainer.evaluate(texts, labels)
    Memory(monkeypatch, 3)
    with pytest.warns(RuntimeWarning, match="classifying: out of memory with 16 rows") as told:
        again = trainer.predict(texts)
    assert len(told) == 1
    for one, other in zip(again, answers, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    with pytest.warns(RuntimeWarning):
        assert trainer.evaluate(texts, labels).loss == pytest.approx(measured.loss, abs=1e-6)


def test_validation_carries_the_state_of_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("pretrain")
    task.valid = task.train
    whole = task.validate()
    Memory(monkeypatch, 1)
    with pytest.warns(RuntimeWarning, match="validation: out of memory with 2 rows") as told:
        again = [task.validate(), task.validate()]
    assert len(told) == 1
    for cut in again:
        assert cut == pytest.approx(whole, rel=1e-6)


class NoRoom(TapeRecorder):
    """Has memory for some graphs."""

    def __init__(self, n_graphs: int) -> None:
        super().__init__()
        self.n_graphs = n_graphs

    def record(self, call: Any, beside: Any) -> Any:
        made = super().record(call, beside)
        if len(self.tapes) > self.n_graphs:
            torch.rand(3)  # a capture that ends early may have drawn
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return made


@pytest.mark.parametrize("n_graphs", [0, 2])
def test_graphs_that_do_not_fit_are_left_out(n_graphs: int) -> None:
    config = small_config("paper", variable_bptt=True)
    with pytest.MonkeyPatch.context() as patch, settings_in_memory():
        as_on_a_gpu(patch)
        eager = Run(config)
        with pytest.warns(RuntimeWarning, match="no memory for CUDA graphs") as told:
            graphed = Run(config, recorder=NoRoom(n_graphs))
        assert len(told) == 2  # the stages of a run
        graphed.assert_equal(eager)


def test_steps_as_graphs_become_eager_ones_in_parts() -> None:
    config = small_config("paper", variable_bptt=True)
    with pytest.MonkeyPatch.context() as patch, settings_in_memory():
        as_on_a_gpu(patch)
        Memory(patch, 3)
        with pytest.warns(RuntimeWarning, match="out of memory with 8 rows"):
            eager = Run(config)
        with pytest.warns(RuntimeWarning, match="out of memory with 8 rows"):
            graphed = Run(config, recorder=TapeRecorder())
        graphed.assert_equal(eager)
        assert graphed.n_replays == 0


@settings(deadline=None, max_examples=40)  # other work on the machine must not fail it
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 9), st.booleans())
def test_rows_alone_give_what_they_give_among_all(
    lengths: list[int], rows: int, with_gradient: bool
) -> None:
    model: Any = task_of("classifier").model
    ids = torch.randint(2, 30, (len(lengths), max(lengths)))
    with torch.set_grad_enabled(with_gradient):
        pooled, output = model.encode(ids, lengths)
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        for part in micro_batches.parts_of(len(lengths), rows):
            some, of_output = model.encode(ids, lengths, part)
            torch.testing.assert_close(some, pooled[order[part]])
            torch.testing.assert_close(of_output, output[:, part])
