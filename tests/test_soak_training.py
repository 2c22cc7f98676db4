"""The soak finds what grows, and calls flat what does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soak_training
from soak_training import LIMITS, PER_STEPS, growth, soak

from ulmfit_fast.training.observer import Observer, Step

N_SAMPLES = 150
STEPS = [100 * k for k in range(N_SAMPLES)]


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_training, "N_BOOTSTRAPS", 100)


def series(slope: float, noise: float, seed: int) -> list[float]:
    """Draw a series that grows in a straight line, under a noise whose neighbours are alike."""
    draw = np.random.default_rng(seed)
    white = draw.normal(size=N_SAMPLES + 4)
    smooth = np.convolve(white, np.ones(5) / 5**0.5, mode="valid")
    return (300 + slope * np.array(STEPS) / PER_STEPS + noise * smooth).tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_a_flat_series_is_within_the_limit_and_a_leak_is_not(seed: int, noise: float) -> None:
    """One of 512 bytes a step is twice the limit."""
    limit = LIMITS["rss_mib"]
    assert growth(STEPS, series(0.0, noise, seed))["high"] <= limit
    leak = 512 * PER_STEPS / 2**20
    found = growth(STEPS, series(leak, noise, seed))
    assert found["low"] <= found["slope"] <= found["high"]
    assert found["high"] > limit


def test_single_jumps_and_a_warm_up_are_no_growth() -> None:
    values = series(0.0, 0.1, 1)
    for place in (40, 80, 81, 120):
        values[place] += 500
    values[:25] = np.linspace(0, 300, 25).tolist()
    assert abs(growth(STEPS, values)["slope"]) < 1


def test_too_few_samples_are_said() -> None:
    with pytest.raises(ValueError, match="8 samples after the warm-up: too few"):
        growth(STEPS[:10], [1.0] * 10)


class Leak(Observer):
    """Keeps an open file, half a MiB and a list of every step of the classifier."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.kept: list[tuple[bytes, list[list[int]]]] = []

    def step(self, step: Step) -> None:
        if step.stage == "classifier":
            self.descriptors.append(os.open(__file__, os.O_RDONLY))
            self.kept.append((b"x" * 2**19, [[k] for k in range(100)]))

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


@pytest.fixture
def leak() -> Iterator[Leak]:
    made = Leak()
    yield made
    made.close()


def test_a_planted_leak_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak: Leak
) -> None:
    monkeypatch.setattr(soak_training, "EPOCHS", 4)
    monkeypatch.setattr(soak_training, "SAMPLES_PER_STAGE", 22)
    cases = {case["mode"]: case for case in soak(300, "cpu", tmp_path, [leak])}
    assert sum(case["n_steps"] for case in cases.values()) >= 290
    for stage in ("pretrain", "language_model"):
        assert not {"files", "threads"} & {*cases[stage]["too_much"]}
    assert {"files", "rss_mib", "objects"} <= {*cases["classifier"]["too_much"]}
    grown = cases["classifier"]["growth"]
    assert grown["files"]["low"] > 0.9 * PER_STEPS
    assert grown["rss_mib"]["low"] > 0.4 * PER_STEPS
