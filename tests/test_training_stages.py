"""What a trainer does with stages that were broken off, finished elsewhere, or not saved."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_runs import At, asks_to_stop, make_checkpoints, quick_config, start, train
from small_training import draw_texts

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.errors import TrainingStopped
from ulmfit_fast.training import resume, snapshot, tasks
from ulmfit_fast.training import trainer as trainer_module
from ulmfit_fast.training.precision import Precision
from ulmfit_fast.training.stage_state import StageParts


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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a defect")])
def test_a_stage_whose_end_was_not_kept_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Else the same call made again would be stage 2, after one that gave nothing back."""
    write = resume.write_snapshot

    def broken(path: Path, content: snapshot.Snapshot) -> None:
        if path.name.endswith("-done"):
            raise error
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "write_snapshot", broken)
        trainer = start(quick_config(), tmp_path, make_checkpoints(tmp_path))
        with pytest.raises(type(error)):
            pretrain(trainer)
        assert trainer.language_model is None
        with pytest.raises(InputError, match="broken off"):
            pretrain(trainer)
    resumed = ULMFiTTrainer.resume(tmp_path / "checkpoints")
    pretrain(resumed)
    names = [path.name for path in make_checkpoints(tmp_path).paths()]
    assert names[-1].endswith("pretrain-done")
    last = snapshot.read_snapshot(tmp_path / "checkpoints" / names[-1]).values
    assert [entry["stage"] for entry in last["history"]] == ["pretrain"]


def test_a_stage_whose_end_the_disk_refused_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are in the checkpoints of the next one, which go on as if it had been kept."""
    whole = train(start(quick_config(), tmp_path / "a", make_checkpoints(tmp_path / "a")),
                  tmp_path / "a")  # fmt: skip
    write = resume.write_snapshot

    def full(path: Path, content: snapshot.Snapshot) -> None:
        if path.name.endswith("pretrain-done"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(resume, "write_snapshot", full)
    folder = tmp_path / "b"
    checkpoints = make_checkpoints(folder, warn=lambda _: None)
    stopper = At("language_model", 5, asks_to_stop(checkpoints))
    with pytest.raises(TrainingStopped):
        train(start(quick_config(), folder, checkpoints, stopper), folder)
    checkpoints = make_checkpoints(folder, warn=lambda _: None)
    assert train(start(quick_config(), folder, checkpoints), folder) == whole


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_host_without_memory_for_a_checkpoint_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Also where the state is copied from a GPU, before anything is written."""
    capture = StageParts.capture
    n_refused = 0

    def refuse(self: StageParts, device: Any, **which: Any) -> Any:
        nonlocal n_refused
        if self.progress.step == 0:
            return capture(self, device, **which)
        n_refused += 1
        raise error

    monkeypatch.setattr(StageParts, "capture", refuse)
    said: list[str] = []
    trainer = start(quick_config(), tmp_path, make_checkpoints(tmp_path, 0.0, warn=said.append))
    pretrain(trainer)
    assert trainer.language_model is not None
    assert n_refused > 5
    assert len(said) == 1
    assert "(no memory left for it): training goes on; the last good one is 000000-" in said[0]


def test_a_trainer_is_copied_and_pickled_after_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU it held a stream, which can be neither."""
    monkeypatch.setattr(trainer_module, "CudaRecorder", lambda _: threading.Lock())
    trainer = ULMFiTTrainer(quick_config(), size="tiny", device="cpu")
    trainer.cuda_graphs = True
    monkeypatch.setattr(tasks.LanguageModelTask, "has_few_shapes", False)
    pretrain(trainer)
    texts = draw_texts(5)[0]
    for other in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        other.cuda_graphs = False
        other.finetune_lm(draw_texts(20)[0])
        other.train_classifier(*draw_texts(20))
        assert len(other.predict(texts)) == 5


def test_a_second_gpu_is_no_matter_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of device is kept; which one of them is said by who goes on."""
    given: list[str | None] = []

    def choose(name: str | None) -> torch.device:
        given.append(name)
        return torch.device(name or "cpu")

    monkeypatch.setattr(trainer_module, "choose_device", choose)
    monkeypatch.setattr(
        trainer_module, "choose_precision", lambda name, device: Precision("fp32", device, "")
    )
    second = ULMFiTTrainer(quick_config(), size="tiny", device="cuda:1")
    assert second.device == torch.device("cuda", 1)
    assert second._stages._described["device"] == "cuda"
    on_cpu = ULMFiTTrainer(quick_config(), size="tiny", device="cpu", checkpoints=tmp_path)
    monkeypatch.setitem(on_cpu._stages._described, "device", "cuda")
    pretrain(on_cpu)
    for name, expected in ((None, "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")):
        assert ULMFiTTrainer.resume(tmp_path, device=name).device == torch.device(expected)
