"""The accuracy criterion accepts a right LSTM and rejects every wrong one."""

from __future__ import annotations

import pytest
import torch
from lstm_calls import Case, assert_lstm_no_worse
from numerics import FLOOR, GROSS_MUTANTS, MUTANTS, assert_no_worse, relative_error

from ulmfit_fast import reference

SHAPE = (9, 4, 18, 24)  # T, B, I, H


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_criterion_accepts_the_reference(dtype: torch.dtype, reverse: bool) -> None:
    assert_lstm_no_worse(reference.lstm, Case(SHAPE, dtype, lengths="some", reverse=reverse))


@pytest.mark.parametrize(
    ("mutant", "dtype"),
    [(name, torch.float32) for name in MUTANTS]
    + [(name, torch.bfloat16) for name in GROSS_MUTANTS],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_criterion_rejects_a_wrong_lstm(mutant: str, dtype: torch.dtype, reverse: bool) -> None:
    # Where nothing runs in reverse, ignoring it is no mistake.
    case = Case(SHAPE, dtype, lengths="some", reverse=reverse or mutant == "reverse ignored")
    with pytest.raises(AssertionError, match="allowed"):
        assert_lstm_no_worse(MUTANTS[mutant], case)


def test_criterion_rejects_nan_and_names_its_place() -> None:
    exact = torch.ones(2, 3)
    broken = exact.clone()
    broken[1, 2] = torch.nan
    with pytest.raises(AssertionError, match=r"y .*error inf.*\(1, 2\): nan, exact 1"):
        assert_no_worse("y", broken, exact, exact, torch.float32)


def test_criterion_allows_twice_the_error_of_plain_pytorch_and_the_floor() -> None:
    exact = torch.ones(100, dtype=torch.float64)
    allowed = 2 * 1e-5 + FLOOR[torch.float32]
    assert_no_worse("y", exact * (1 + 0.99 * allowed), exact * (1 + 1e-5), exact, torch.float32)
    with pytest.raises(AssertionError, match="allowed"):
        assert_no_worse("y", exact * (1 + 1.01 * allowed), exact * (1 + 1e-5), exact, torch.float32)


def test_relative_error_of_a_zero_result_is_absolute() -> None:
    assert relative_error(torch.tensor([3.0, 4.0]), torch.zeros(2)) == 5.0
