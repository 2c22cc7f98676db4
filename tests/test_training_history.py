"""The history of a training: the same from memory and from the log, and never large."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_training import small_config, train_all

from ulmfit_fast.training.history import MAX_POINTS, History, Point, StageHistory, read_log
from ulmfit_fast.training.observer import Step
from ulmfit_fast.training.progress import JsonlLog


def step(number: int, stage: str = "classifier", loss: float = 1.0, epoch: int = 1) -> Step:
    return Step(stage, number, epoch, loss, 10, {"embedding": 0.0, "head": 0.01 * number}, 0.8)


def test_history_of_a_trainer_is_that_of_its_log(tmp_path: Path):
    log = JsonlLog(tmp_path / "log.jsonl")
    trainer = train_all(small_config(), (log,))
    log.close()
    read, n_unread = read_log(tmp_path / "log.jsonl")
    assert n_unread == 0
    names = [stage.name for stage in read.stages]
    assert names == ["pretrain", "language_model", "classifier"]
    for kept, again in zip(trainer.history.stages, read.stages, strict=True):
        assert [(p.step, p.loss, dict(p.rates), p.beta1) for p in kept.points] == [
            (p.step, p.loss, dict(p.rates), p.beta1) for p in again.points
        ]
        assert kept.epochs == again.epochs
        assert (kept.n_steps, kept.n_tokens, kept.metrics) == (
            again.n_steps, again.n_tokens, again.metrics
        )  # fmt: skip
        assert again.seconds == pytest.approx(kept.seconds, abs=1e-3)
        assert len(kept.points) == kept.n_steps
        assert all(point.tokens_per_s > 0 for point in (*kept.points, *again.points))


@given(n=st.integers(1, 4 * MAX_POINTS))
def test_points_stay_few_and_keep_the_mean(n: int):
    stage = StageHistory("pretrain")
    for number in range(1, n + 1):
        stage.add(Point(number, float(number), 100.0, {"head": 0.1}, 0.8))
    stage.end_epoch(1, {})
    assert len(stage.points) <= MAX_POINTS + 1
    assert stage.points[-1].step == n
    assert stage.epochs[0].step == n
    steps = [0, *(point.step for point in stage.points)]
    widths = [last - before for before, last in pairwise(steps)]
    total = sum(w * point.loss for w, point in zip(widths, stage.points, strict=True))
    assert total == pytest.approx(n * (n + 1) / 2)


def test_steps_told_again_after_a_resume_replace_those_before():
    history = History()
    history.stage_started("classifier", 20, "")
    for number in range(1, 11):
        history.step(step(number, loss=5.0, epoch=1 + number // 6))
        if number == 5:
            history.epoch_ended("classifier", 1, {"valid_loss": 3.0})
    history.stage_started("classifier", 20, "")
    for number in range(8, 21):
        history.step(step(number, loss=2.0))
    history.stage_ended("classifier", 1.5, {"accuracy": 0.5})
    (stage,) = history.stages
    assert [point.step for point in stage.points] == list(range(1, 21))
    assert [point.loss for point in stage.points] == [5.0] * 7 + [2.0] * 13
    assert [epoch.number for epoch in stage.epochs] == [1]


def test_a_stage_that_ended_is_not_gone_on_with():
    history = History()
    for _ in range(2):
        history.stage_started("classifier", 1, "")
        history.step(step(1))
        history.stage_ended("classifier", 0.1, {})
    assert [len(stage.points) for stage in history.stages] == [1, 1]


def test_null_in_the_log_is_nan_and_a_half_line_is_counted(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path)
    log.stage_started("classifier", 2, "")
    log.step(step(1, loss=math.nan))
    log.close()
    with path.open("a") as file:
        file.write('{"event": "step", "stage": "clas')
    history, n_unread = read_log(path)
    assert n_unread == 1
    assert math.isnan(history.stages[0].points[0].loss)


def test_lines_with_numbers_too_large_or_nested_too_deep_are_counted(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    large = {"event": "step", "stage": "a", "step": 1, "loss": 10**400, "n_tokens": 1,
             "tokens_per_s": 1.0, "rates": {}, "beta1": 0.9}  # fmt: skip
    endless = {"event": "stage_started", "stage": "a", "n_steps": math.inf, "description": ""}
    path.write_text("\n".join([json.dumps(large), json.dumps(endless), "[" * 100_000]))
    assert read_log(path)[1] == 3


EVENTS = st.dictionaries(
    st.sampled_from(["event", "stage", "step", "rates", "loss", "n_tokens", "epoch", "seconds"]),
    st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
    | st.sampled_from(["step", "epoch_ended", "stage_ended", "stage_started"]),
)  # fmt: skip


@given(lines=st.lists(st.text() | EVENTS.map(json.dumps)))
def test_no_file_makes_reading_fail(lines: list[str], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    read_log(path)
