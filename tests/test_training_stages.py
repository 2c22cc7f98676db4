"""What a trainer does with stages that were broken off, finished elsewhere, or not saved."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from resume_runs import At, asks_to_stop, make_checkpoints, quick_config, start, train
from small_training import draw_texts

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.errors import TrainingStopped
from ulmfit_fast.training import resume, snapshot


def pretrain(trainer: ULMFiTTrainer) -> Any:
    return trainer.pretrain(draw_texts(40)[0], draw_texts(20, seed=1)[0])


def test_a_trainer_that_was_broken_off_does_not_begin_anew_over_its_checkpoints(
    tmp_path: Path,
) -> None:
    checkpoints = make_checkpoints(tmp_path)
    trainer = start(
        quick_config(), tmp_path, checkpoints, At("pretrain", 5, asks_to_stop(checkpoints))
    )
    with pytest.raises(TrainingStopped):
        pretrain(trainer)
    saved = checkpoints.paths()
    for _ in range(3):
        with pytest.raises(InputError, match=r"broken off in this trainer; go on with: .*resume"):
            pretrain(trainer)
    assert checkpoints.paths() == saved
    # The same Checkpoints go on: the signal was of the training before.
    resumed = ULMFiTTrainer.resume(checkpoints)
    assert len(pretrain(resumed).epochs) == 2


def test_a_training_that_goes_on_does_not_hold_the_checkpoint_in_memory(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path)
    stopper = At("language_model", 3, asks_to_stop(checkpoints))
    with pytest.raises(TrainingStopped):
        train(start(quick_config(), tmp_path, checkpoints, stopper), tmp_path)
    n_held: list[int] = []
    for stage in ("language_model", "classifier"):
        look = At(stage, 6, lambda: n_held.append(len(checkpoints.resumed.tensors)))
        trainer = start(quick_config(), tmp_path, checkpoints, look)
        stopper = At("classifier", 3, asks_to_stop(checkpoints))
        trainer.observers += [stopper] if stage == "language_model" else []
        if stage == "language_model":
            with pytest.raises(TrainingStopped):
                train(trainer, tmp_path)
        else:
            train(trainer, tmp_path)
    assert n_held == [0, 0]


def test_a_language_model_that_was_not_saved_is_not_taken_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = resume.write_snapshot

    def full_once(path: Path, content: snapshot.Snapshot) -> None:
        if path.name.endswith("language_model-done"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(resume, "write_snapshot", full_once)
    said: list[str] = []
    checkpoints = make_checkpoints(tmp_path, warn=said.append)
    stopper = At("classifier", 3, asks_to_stop(checkpoints))
    with pytest.raises(TrainingStopped):
        train(start(quick_config(), tmp_path, checkpoints, stopper), tmp_path)
    assert any(path.name.endswith("-pretrain-done") for path in checkpoints.paths())
    trainer = start(quick_config(), tmp_path, checkpoints)
    texts, labels = draw_texts(60)
    valid_texts, valid_labels = draw_texts(20, seed=1)
    trainer.pretrain(texts[:40], valid_texts)
    trainer.finetune_lm(texts, valid_texts)
    assert trainer.language_model is None
    assert "without the language model before the classifier" in said[-1]
    trainer.train_classifier(texts, labels, valid_texts, valid_labels)
    assert trainer.classifier is not None


def test_a_training_with_graphs_goes_on_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = make_checkpoints(tmp_path)
    trainer = start(
        quick_config(), tmp_path, checkpoints, At("pretrain", 5, asks_to_stop(checkpoints))
    )
    monkeypatch.setitem(trainer._stages._described, "cuda_graphs", True)
    with pytest.raises(TrainingStopped):
        pretrain(trainer)
    assert not ULMFiTTrainer.resume(tmp_path / "checkpoints", device="cpu").cuda_graphs


def test_a_signal_while_a_finished_stage_is_saved_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = resume.write_snapshot

    def signalled(path: Path, content: snapshot.Snapshot) -> None:
        write(path, content)
        if path.name.endswith("-done"):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "write_snapshot", signalled)
        trainer = start(quick_config(), tmp_path, make_checkpoints(tmp_path))
        with pytest.raises(TrainingStopped, match="outside its steps; saved; go on with"):
            pretrain(trainer)
        with pytest.raises(InputError, match="broken off"):
            pretrain(trainer)
    resumed = ULMFiTTrainer.resume(tmp_path / "checkpoints")
    pretrain(resumed)
    assert resumed.language_model is not None
