"""Checkpoints are whole or not there, every flipped bit is found, and full disks do no harm."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from resume_runs import At, asks_to_stop, hash_of, make_checkpoints, quick_config, start, train
from small_training import draw_texts

from ulmfit_fast import InputError, TrainConfig, TrainingError, ULMFiTTrainer
from ulmfit_fast.errors import TrainingStopped
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training import resume, snapshot
from ulmfit_fast.training.snapshot import DamagedSnapshotError, read_snapshot


def stopped(folder: Path, config: TrainConfig | None = None, step: int = 4) -> list[Path]:
    """Stop in the classifier's step 4; return its two checkpoints."""
    checkpoints = make_checkpoints(folder, 0.0)
    stopper = At("pretrain", step, asks_to_stop(checkpoints))
    with pytest.raises(TrainingStopped):
        train(start(config or quick_config(), folder, checkpoints, stopper), folder)
    return checkpoints.paths()


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """A bit of every byte of the small files, and of bytes all over the tensors."""
    path = stopped(tmp_path)[-1]
    n_flipped = 0
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        places = range(0, len(content), max(1, len(content) // 64))
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 1 << (place % 8)
            file.write_bytes(damaged)
            with pytest.raises(DamagedSnapshotError):
                read_snapshot(path)
            n_flipped += 1
        file.write_bytes(content[:-1])
        with pytest.raises(DamagedSnapshotError):
            read_snapshot(path)
        file.unlink()
        with pytest.raises(DamagedSnapshotError):
            read_snapshot(path)
        file.write_bytes(content)
    assert n_flipped > 256
    read_snapshot(path)


def test_a_damaged_checkpoint_is_said_and_the_one_before_goes_on(tmp_path: Path) -> None:
    before, newest = stopped(tmp_path, quick_config())
    content = bytearray((newest / "tensors.safetensors").read_bytes())
    content[len(content) // 2] ^= 4
    (newest / "tensors.safetensors").write_bytes(content)
    said: list[str] = []
    checkpoints = make_checkpoints(tmp_path, warn=said.append)
    out = train(start(quick_config(), tmp_path, checkpoints), tmp_path)
    assert len(said) == 1
    assert "damaged (a file's SHA-256 is not" in said[0]
    assert f"going on from {before.name}" in said[0]
    whole = start(quick_config(), tmp_path / "whole", make_checkpoints(tmp_path / "whole"))
    assert out == train(whole, tmp_path / "whole")


def test_without_a_whole_checkpoint_nothing_goes_on(tmp_path: Path) -> None:
    for path in stopped(tmp_path):
        (path / "state.json").unlink()
    with pytest.raises(InputError, match="no checkpoint before it is whole"):
        ULMFiTTrainer.resume(tmp_path / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint of a training"):
        ULMFiTTrainer.resume(tmp_path / "nothing")


def test_what_is_not_the_same_training_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path)
    folder = tmp_path / "checkpoints"
    with pytest.raises(InputError, match="has checkpoints of a training that was stopped"):
        ULMFiTTrainer(quick_config(), size="tiny", checkpoints=folder)
    texts, labels = draw_texts(60)
    for wrong, call in [
        ("begun with other texts", lambda t: t.pretrain(texts[:39], texts[:20])),
        ("is of stage pretrain", lambda t: t.train_classifier(texts, labels)),
    ]:
        with pytest.raises(InputError, match=wrong):
            call(ULMFiTTrainer.resume(folder))
    trainer = ULMFiTTrainer.resume(folder)
    trainer.config = trainer.config.with_stage("pretrain", epochs=3)
    with pytest.raises(InputError, match="begun with other settings"):
        trainer.pretrain(texts[:40], draw_texts(20, seed=1)[0])


def test_a_checkpoint_of_another_version_is_refused_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = stopped(tmp_path)
    monkeypatch.setattr(snapshot, "FORMAT_VERSION", 2)
    with pytest.raises(InputError, match="format version 1, but this ulmfit_fast reads version 2"):
        ULMFiTTrainer.resume(tmp_path / "checkpoints")
    assert all(path.exists() for path in paths)


class Faults:
    """Has the k-th call that changes the disk fail, as a full disk, or end the process there."""

    CALLS = (
        (Path, "write_bytes"), (Path, "write_text"), (Path, "mkdir"), (Path, "rename"),
        (os, "fsync"), (os, "replace"), (Tokenizer, "save"), (shutil, "rmtree"),
    )  # fmt: skip

    def __init__(self, monkeypatch: pytest.MonkeyPatch, k: int, error: BaseException) -> None:
        self.n_calls, self.k, self.error = 0, k, error
        for owner, name in self.CALLS:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, call: Any) -> Any:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.n_calls += 1
            if self.n_calls == self.k:
                raise self.error
            return call(*arguments, **keywords)

        return counted


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_fault_in_any_call_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    content = read_snapshot(stopped(tmp_path)[-1])
    expected = hash_of(make_checkpoints(tmp_path).paths()[-1])[1]
    k, n_calls = 0, 1
    while n_calls >= k:  # until all calls of a save are fewer than the one that is to fail
        k += 1
        checkpoints = make_checkpoints(tmp_path, warn=lambda _: None)
        with monkeypatch.context() as patch:
            faults = Faults(patch, k, error)
            try:
                checkpoints.write(content, "pretrain-step-4")
            except type(error):
                pass
        n_calls = faults.n_calls
        assert checkpoints.find() is not None
        assert hash_of(checkpoints.paths()[-1])[1] == expected
        assert not list(checkpoints.folder.glob(".*"))
    assert k > 15


def test_a_full_disk_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = resume.write_snapshot
    n_written = 0

    def full(path: Path, content: snapshot.Snapshot) -> None:
        nonlocal n_written
        n_written += 1
        if n_written > 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(resume, "write_snapshot", full)
    said: list[str] = []
    checkpoints = make_checkpoints(tmp_path, 0.0, warn=said.append)
    train(start(quick_config(), tmp_path, checkpoints), tmp_path)
    assert len(said) == 1
    assert "No space left on device): training goes on; the last good one is 000001-" in said[0]
    assert n_written > 30
    assert [path.name for path in checkpoints.paths()] == [
        "000000-pretrain-step-0",
        "000001-pretrain-step-1",
    ]


def test_a_stop_that_cannot_be_saved_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: snapshot.Snapshot) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "write_snapshot", full)
    checkpoints = make_checkpoints(tmp_path, warn=lambda _: None)
    stopper = At("pretrain", 2, asks_to_stop(checkpoints))
    message = r"stopped at stage pretrain, step 2 of \d+, but not saved: .*No space left"
    with pytest.raises(TrainingError, match=message):
        train(start(quick_config(), tmp_path, checkpoints, stopper), tmp_path)


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    checkpoints = resume.Checkpoints(tmp_path / "file" / "checkpoints", 0.0, warn=said.append)
    trainer = ULMFiTTrainer(quick_config(), size="tiny", checkpoints=checkpoints)
    trainer.pretrain(draw_texts(20)[0])
    assert len(said) == 1
    assert "Not a directory): training goes on; there is none yet" in said[0]


def test_only_what_a_kill_left_is_swept_from_the_folder(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path, 0.0)
    left = [".000007-pretrain-step-8.new-0123abcd", ".000007-pretrain-done.old"]
    for name in (".git", ".000007-notes", *left):
        (checkpoints.folder / name).mkdir(parents=True)
        (checkpoints.folder / name / "HEAD").write_text("the user's")
    trainer = ULMFiTTrainer(quick_config(), size="tiny", device="cpu", checkpoints=checkpoints)
    trainer.pretrain(draw_texts(20)[0])
    hidden = sorted(path.name for path in checkpoints.folder.glob(".*"))
    assert hidden == [".000007-notes", ".git"]
    assert (checkpoints.folder / ".git" / "HEAD").read_text() == "the user's"
