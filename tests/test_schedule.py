"""Schedules against the paper's formulas and fastai's own functions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast.schedule import (
    OneCycle,
    Phase,
    discriminative_rates,
    gradual_unfreezing,
    slanted_triangular,
)


def paper_rate(t: int, T: int, cut_frac: float = 0.1, ratio: float = 32) -> float:
    """arXiv:1801.06146v5, equation 3, letter by letter."""
    cut = math.floor(T * cut_frac)
    p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
    return (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize("T", [10, 50, 1000])
def test_slanted_triangle_is_the_papers(T: int) -> None:
    for t in range(T):
        assert slanted_triangular(t, T) == pytest.approx(paper_rate(t, T), rel=1e-12)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(1, 3000))
def test_slanted_triangle_stays_between_its_ends_for_any_length(T: int) -> None:
    rates = [slanted_triangular(t, T) for t in range(T)]
    assert all(1 / 32 - 1e-12 <= rate <= 1 + 1e-12 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_one_cycle_equals_fastai() -> None:
    pytest.importorskip("fastai", reason="peer: requirements/peers.txt")
    from fastai.callback.schedule import combined_cos

    lr = combined_cos(0.25, 1 / 25, 1.0, 1e-5)
    momentum = combined_cos(0.25, 0.8, 0.7, 0.8)
    for step in range(100):
        assert OneCycle().lr(step / 100) == pytest.approx(float(lr(step / 100)), rel=1e-5)
        expected = float(momentum(step / 100))
        assert OneCycle().momentum(step / 100) == pytest.approx(expected, rel=1e-5)


def test_discriminative_rates_fall_by_the_papers_factor() -> None:
    rates = discriminative_rates(0.01, 5)
    assert rates == pytest.approx([2.19e-4, 5.69e-4, 1.48e-3, 3.85e-3, 1e-2], rel=2e-3)


def test_paper_unfreezes_one_more_group_an_epoch() -> None:
    assert gradual_unfreezing(3, 7, [0.1] * 3) == [
        Phase(n_unfrozen=1, epochs=1, lr=0.1),
        Phase(n_unfrozen=2, epochs=1, lr=0.1),
        Phase(n_unfrozen=3, epochs=5, lr=0.1),
    ]


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 6), st.integers(1, 10), st.integers(1, 6))
def test_unfreezing_spends_every_epoch_and_ends_with_all_layers(
    n_groups: int, epochs: int, n_rates: int
) -> None:
    phases = gradual_unfreezing(n_groups, epochs, [0.1] * n_rates)
    assert sum(phase.epochs for phase in phases) == epochs
    assert all(phase.epochs >= 1 for phase in phases)
    unfrozen = [phase.n_unfrozen for phase in phases]
    assert unfrozen == sorted(set(unfrozen))
    assert unfrozen[-1] == n_groups
