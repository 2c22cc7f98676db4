"""A training that was stopped anywhere goes on bit for bit; no checkpoint is ever half there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_runs import (
    At,
    asks_to_stop,
    hash_of,
    log_of,
    make_checkpoints,
    quick_config,
    start,
    train,
)
from small_training import draw_texts, small_config, weights_hash

from ulmfit_fast import TrainingError, ULMFiTTrainer
from ulmfit_fast.errors import TrainingStopped
from ulmfit_fast.training import resume, snapshot, tasks
from ulmfit_fast.training.observer import Observer

Whole = dict[str, Any]
Hashes = dict[str, str]


def watch(monkeypatch: pytest.MonkeyPatch, checkpoints: resume.Checkpoints, most: int) -> Hashes:
    """Have the hashes of the first checkpoints, one after every step, in a dictionary."""
    checkpoints.every_s = 0.0
    hashes: Hashes = {}
    write = resume.write_snapshot

    def spy(path: Path, content: snapshot.Snapshot) -> None:
        write(path, content)
        name, value = hash_of(path)
        assert hashes.setdefault(name, value) == value, f"{name} differs"
        if len(hashes) >= most:
            checkpoints.every_s = 1e9

    monkeypatch.setattr(resume, "write_snapshot", spy)
    return hashes


@pytest.fixture(scope="module")
def whole_paper(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole_of("paper", tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def whole_fastai(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole_of("fastai", tmp_path_factory.mktemp("fastai"))


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> Whole:
    """A training of the recipe that the test names, or of the paper's."""
    found: Whole = request.getfixturevalue(f"whole_{getattr(request, 'param', 'paper')}")
    return found


def whole_of(recipe: str, folder: Path) -> Whole:
    """Train without a stop; return that with the hash of its state after every step."""
    config = quick_config(recipe)
    checkpoints = make_checkpoints(folder)
    with pytest.MonkeyPatch.context() as patch:
        hashes = watch(patch, checkpoints, 10**6)
        out = train(start(config, folder, checkpoints), folder)
    return {"config": config, "out": out, "hashes": hashes}


def n_steps(whole: Whole, stage: str) -> int:
    return sum(e["event"] == "step" and e["stage"] == stage for e in whole["out"]["log"])


def test_checkpoints_change_nothing(whole: Whole, tmp_path: Path) -> None:
    plain = ULMFiTTrainer(whole["config"], size="tiny", device="cpu")
    trainer = start(whole["config"], tmp_path, make_checkpoints(tmp_path))
    plain.observers.extend(trainer.observers)
    assert train(plain, tmp_path) == whole["out"]


@pytest.mark.parametrize("stage", ["pretrain", "language_model", "classifier"])
@pytest.mark.parametrize(
    ("whole", "at"),
    [("paper", 0.01), ("paper", 0.6), ("paper", 1.0), ("fastai", 0.4)],
    indirect=["whole"],
)
def test_a_stage_stopped_at_a_step_goes_on_bit_for_bit(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, at: float
) -> None:
    """Weights, moments, LSTM state, generators and sums after the next step, log and results."""
    n = n_steps(whole, stage)
    step = max(1, round(at * n))
    checkpoints = make_checkpoints(tmp_path)
    stopper = At(stage, step, asks_to_stop(checkpoints))
    trainer = start(whole["config"], tmp_path, checkpoints, stopper)
    with pytest.raises(TrainingStopped, match=f"stopped at stage {stage}, step {step} of {n}; sav"):
        train(trainer, tmp_path)
    torch.manual_seed(12345)  # a new process has other generators
    checkpoints = make_checkpoints(tmp_path)
    hashes = watch(monkeypatch, checkpoints, 4)
    out = train(start(whole["config"], tmp_path, checkpoints), tmp_path)
    assert out == whole["out"]
    of_steps = {name: value for name, value in hashes.items() if "-step-" in name}
    assert of_steps
    assert of_steps.items() <= whole["hashes"].items()
    if at < 1.0:
        assert any(name.startswith(f"{stage}-step-{step + 1},") for name in of_steps)


@pytest.mark.parametrize("stage", ["pretrain", "language_model", "classifier"])
def test_a_stage_that_raised_goes_on_from_the_checkpoint_before(
    whole: Whole, tmp_path: Path, stage: str
) -> None:
    """The log is cut back to it: no line is missing, none is there twice."""
    n = n_steps(whole, stage)

    def fail() -> None:
        raise RuntimeError("power cut")

    def now() -> None:
        checkpoints.every_s = 0.0

    def no_more() -> None:
        checkpoints.every_s = 1e9

    checkpoints = make_checkpoints(tmp_path)
    acts = [At(stage, n // 3, now), At(stage, n // 3 + 1, no_more), At(stage, n - 1, fail)]
    with pytest.raises(RuntimeError, match="power cut"):
        train(start(whole["config"], tmp_path, checkpoints, *acts), tmp_path)
    out = train(start(whole["config"], tmp_path, make_checkpoints(tmp_path)), tmp_path)
    assert out == whole["out"]


def test_patience_and_the_best_weights_go_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 2 is the best; stopped in epoch 4, the stage ends after it."""
    errors = iter([0.5, 0.2, 0.3, 0.4, 0.1])
    hashes: list[str] = []

    def validate(task: tasks.ClassifierTask) -> dict[str, float]:
        hashes.append(weights_hash(task.model))
        return {"error": next(errors), "valid_loss": 1.0}

    monkeypatch.setattr(tasks.ClassifierTask, "validate", validate)
    texts, labels = draw_texts(40)
    config = small_config(patience=2).with_stage("classifier", epochs=9)
    checkpoints = make_checkpoints(tmp_path)
    stopper = At("classifier", 10, asks_to_stop(checkpoints))  # three steps an epoch
    trainer = start(config, tmp_path, checkpoints, stopper)
    with pytest.raises(TrainingStopped):
        trainer.train_classifier(texts, labels, texts, labels)
    assert len(hashes) == 3
    trainer = start(config, tmp_path, make_checkpoints(tmp_path))
    result = trainer.train_classifier(texts, labels, texts, labels)
    assert [epoch["error"] for epoch in result.epochs] == [0.5, 0.2, 0.3, 0.4]
    assert result.best["error"] == 0.2
    assert weights_hash(trainer.classifier) == hashes[1]


def test_a_signal_in_validation_stops_at_once_and_validation_begins_anew(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = tasks.ClassifierTask.validate

    def interrupted(self: tasks.ClassifierTask) -> dict[str, float]:
        found = validate(self)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(tasks.ClassifierTask, "validate", interrupted)
        with pytest.raises(TrainingStopped, match="saved") as raised:
            train(start(whole["config"], tmp_path, make_checkpoints(tmp_path)), tmp_path)
    assert raised.value.signal == signal.SIGTERM
    out = train(start(whole["config"], tmp_path, make_checkpoints(tmp_path)), tmp_path)
    assert out == whole["out"]


def test_a_second_signal_stops_in_the_middle_of_a_step(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    trainer = start(quick_config(), tmp_path, make_checkpoints(tmp_path), At("pretrain", 2, twice))
    with pytest.raises(KeyboardInterrupt) as raised:
        train(trainer, tmp_path)
    assert not isinstance(raised.value, TrainingStopped)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_time_limit_stops_with_a_checkpoint(tmp_path: Path) -> None:
    limited = make_checkpoints(tmp_path, stop=resume.StopRequest(time_limit_s=0.0))
    with pytest.raises(TrainingStopped, match=r"step 0 of \d+; saved; go on with: U") as raised:
        train(start(quick_config(), tmp_path, limited), tmp_path)
    assert raised.value.signal is None


class Breaks(Observer):
    """Makes a language model's losses NaN from a step on, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int, n: int) -> None:
        self.n_calls, loss = 0, tasks.LanguageModelTask.loss

        def broken(task: Any, inputs: Any, state: Any) -> Any:
            self.n_calls += 1
            parts, state = loss(task, inputs, state)
            if first <= self.n_calls < first + n:
                parts = type(parts)(parts.total * float("nan"), parts.cross_entropy)
            return parts, state

        monkeypatch.setattr(tasks.LanguageModelTask, "loss", broken)


def pretrain(trainer: ULMFiTTrainer) -> Any:
    return trainer.pretrain(draw_texts(40)[0], draw_texts(20, seed=1)[0])


def test_three_bad_steps_go_back_to_a_checkpoint_at_half_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Breaks(monkeypatch, first=5, n=3)
    said: list[str] = []
    checkpoints = make_checkpoints(tmp_path, 0.0, warn=said.append)
    trainer = start(quick_config(), tmp_path, checkpoints)
    result = pretrain(trainer)
    for observer in trainer.observers:
        observer.close()
    assert len(said) == 1
    assert "stage pretrain, step 7: 3 steps in a row" in said[0]
    assert "back to step 4 with 0.5 of the learning rate" in said[0]
    assert all(0 < epoch["train_loss"] < 10 for epoch in result.epochs)
    steps = [e for e in log_of(tmp_path) if e["event"] == "step"]
    assert [e["step"] for e in steps] == list(range(1, len(steps) + 1))
    whole = start(quick_config(), tmp_path / "whole", make_checkpoints(tmp_path / "whole"))
    pretrain(whole)
    others = [e for e in log_of(tmp_path / "whole") if e["event"] == "step"]
    factors = [e["lr"] / other["lr"] for e, other in zip(steps, others, strict=True)]
    assert factors == pytest.approx([1.0] * 4 + [0.5] * (len(steps) - 4))


def test_a_stage_that_diverges_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Breaks(monkeypatch, first=5, n=10**6)
    said: list[str] = []
    checkpoints = make_checkpoints(tmp_path, 0.0, warn=said.append)
    message = "stage pretrain, step .* after going back 3 times, so the stage was given up. Lower"
    with pytest.raises(TrainingError, match=message):
        pretrain(start(quick_config(), tmp_path, checkpoints))
    assert len(said) == 3
