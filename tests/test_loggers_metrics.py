"""What loggers are told, and that none of them can end a training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_training import small_config, train_all

from ulmfit_fast import TrainingError
from ulmfit_fast.loggers import MetricLogger
from ulmfit_fast.training.observer import Observer, Step


class Kept(MetricLogger):
    """Keeps what it is told; fails from a call on."""

    def __init__(self, *, fail_at: float = math.inf, error: type[BaseException] = OSError) -> None:
        self.said: list[str] = []
        super().__init__("tracker", warn=self.said.append)
        self.calls: list[tuple[int, dict[str, float]]] = []
        self.n_finished = 0
        self._fail_at, self._error = fail_at, error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append((step, dict(metrics)))
        if len(self.calls) >= self._fail_at:
            raise self._error("disk\nfull")

    def finish(self) -> None:
        self.n_finished += 1
        if self.calls and len(self.calls) >= self._fail_at:
            raise self._error("still full")


class Steps(Observer):
    """Keeps the steps of a training."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, step: Step) -> None:
        self.steps.append(step)


def step_of(stage: str, number: int) -> Step:
    return Step(stage, number, 1, 0.5, 10, {"embedding": 0.0, "head": 0.01}, 0.8)


def test_a_training_is_told_in_whole_under_names_of_its_stages() -> None:
    logger, steps = Kept(), Steps()
    train_all(small_config(), (logger, steps))
    logger.close()
    told = [call for call in logger.calls if any(name.endswith("/beta1") for name in call[1])]
    assert [step for step, _ in told] == list(range(1, len(steps.steps) + 1))
    for (_, metrics), step in zip(told, steps.steps, strict=True):
        assert metrics.pop(f"{step.stage}/tokens_per_s") > 0
        assert metrics == {
            f"{step.stage}/loss": step.loss,
            f"{step.stage}/beta1": step.beta1,
            **{f"{step.stage}/lr/{group}": rate for group, rate in step.rates.items()},
        }
    epochs = [metrics for _, metrics in logger.calls if any("/epoch" in name for name in metrics)]
    assert [next(iter(each)) for each in epochs] == [
        *["pretrain/epoch"] * 2, *["language_model/epoch"] * 2, *["classifier/epoch"] * 4,
    ]  # fmt: skip
    assert epochs[-1]["classifier/epoch"] == 4
    assert 0 <= epochs[-1]["classifier/accuracy"] <= 1
    ends = [metrics for _, metrics in logger.calls if any("/best/" in name for name in metrics)]
    assert [sorted(each)[-1].partition("/")[0] for each in ends] == [
        *("pretrain", "language_model", "classifier"),
    ]
    assert logger.n_finished == 1
    assert not logger.said


@given(
    st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(0, 9), max_size=2),
)
def test_the_step_goes_on_over_stages_and_never_back(
    gaps_of_stages: list[list[int]], before: list[int]
) -> None:
    """A GPU's steps are told with gaps."""
    logger = Kept()
    steps_before = {f"before{i}": n for i, n in enumerate(before)}
    MetricLogger.__init__(logger, "tracker", steps_before=steps_before)
    expected, total = [], sum(before)
    for i, gaps in enumerate(gaps_of_stages):
        logger.stage_started(f"stage{i}", 100, "")
        number = 0
        for gap in gaps:
            number += gap
            logger.step(step_of(f"stage{i}", number))
            expected.append(total + number)
        total += number
        logger.epoch_ended(f"stage{i}", 1, {"valid_loss": 1.0})
        expected.append(total)
    assert [step for step, _ in logger.calls] == expected
    assert expected == sorted(expected)


def test_a_stage_that_goes_on_keeps_its_numbers() -> None:
    logger = Kept()
    steps_before = {"pretrain": 33, "language_model": 20, "classifier": 7}
    MetricLogger.__init__(logger, "tracker", steps_before=steps_before)
    logger.stage_resumed("language_model", 100, "", 18)
    logger.step(step_of("language_model", 19))
    logger.step(step_of("language_model", 40))
    logger.stage_started("classifier", 100, "")
    logger.step(step_of("classifier", 1))
    assert [step for step, _ in logger.calls] == [33 + 19, 33 + 40, 33 + 40 + 1]


def test_a_failure_is_warned_of_once_and_the_training_goes_on() -> None:
    logger, sound, steps = Kept(fail_at=5), Kept(), Steps()
    trainer = train_all(small_config(), (logger, sound, steps))
    logger.close()
    assert trainer.classifier is not None
    assert len(logger.calls) == 5
    assert logger.n_finished == 1, "what it holds is still written"
    assert len(logger.said) == 1
    assert len(sound.calls) > len(steps.steps)
    assert not sound.said


@pytest.mark.parametrize("error", [OSError, ConnectionError, KeyError, RuntimeError])
def test_whatever_a_library_raises_is_its_failure(error: type[Exception]) -> None:
    logger = Kept(fail_at=1, error=error)
    for number in range(1, 4):
        logger.step(step_of("classifier", number))
    (said,) = logger.said
    assert said.startswith("tracker failed, the training goes on without it (")
    assert error.__name__ in said
    assert said.isprintable()
    assert len(logger.calls) == 1


def test_ctrl_c_in_a_logger_is_no_failure() -> None:
    logger = Kept(fail_at=1, error=KeyboardInterrupt)
    logger.stage_started("classifier", 10, "")
    with pytest.raises(KeyboardInterrupt):
        logger.step(step_of("classifier", 1))
    assert not logger.said


def test_without_a_place_for_it_the_warning_is_pythons() -> None:
    logger = Kept(fail_at=1)
    MetricLogger.__init__(logger, "tracker")
    with pytest.warns(RuntimeWarning, match=r"tracker failed.*\(OSError: disk\\nfull\)"):
        logger.step(step_of("classifier", 1))


def test_close_finishes_once_and_nothing_is_told_after() -> None:
    logger = Kept()
    logger.step(step_of("classifier", 1))
    logger.close()
    logger.close()
    logger.step(step_of("classifier", 2))
    assert logger.n_finished == 1
    assert len(logger.calls) == 1


def test_a_training_that_fails_is_its_own_error() -> None:
    logger = Kept()
    config = small_config().with_stage("pretrain", lr=1e30)
    with pytest.raises(TrainingError):
        train_all(config, (logger,))
    logger.close()
    assert logger.n_finished == 1
