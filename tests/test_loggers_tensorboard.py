"""TensorBoard's files, read back by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from small_training import small_config, train_all
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_loggers_metrics import Steps, step_of

from ulmfit_fast.loggers.tensorboard import TensorBoardLogger


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def test_every_step_and_epoch_reads_back(tmp_path: Path) -> None:
    config = small_config()
    logger, steps = TensorBoardLogger(tmp_path / "log", config.to_dict()), Steps()
    train_all(config, (logger, steps))
    logger.close()
    found = read(tmp_path / "log")
    by_number = dict(enumerate(steps.steps, 1))
    for stage in ("pretrain", "language_model", "classifier"):
        for point in found.Scalars(f"{stage}/loss"):
            step = by_number[point.step]
            assert step.stage == stage
            assert point.value == pytest.approx(step.loss, rel=1e-6)
        group = next(iter(steps.steps[-1].rates))
        rates = {point.step: point.value for point in found.Scalars(f"{stage}/lr/{group}")}
        assert rates == {
            number: pytest.approx(step.rates[group], rel=1e-6)
            for number, step in by_number.items()
            if step.stage == stage
        }
    assert len(found.Scalars("classifier/valid_loss")) == 4
    assert found.Scalars("classifier/accuracy")[-1].step == len(steps.steps)
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '     "recipe": "fastai"' in text
    assert all(line.startswith("    ") for line in text.splitlines())


def test_a_disk_that_is_full_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    logger = TensorBoardLogger(tmp_path, warn=said.append)
    writer = logger._writer.file_writer.event_writer

    def full(event: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "add_event", full)
    for number in range(1, 4):
        logger.step(step_of("classifier", number))
    logger.close()
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_steps_go_on_where_a_run_is_resumed(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, steps_before={"pretrain": 100})
    logger.stage_started("classifier", 10, "")
    logger.step(step_of("classifier", 3))
    logger.close()
    assert [point.step for point in read(tmp_path).Scalars("classifier/loss")] == [103]
