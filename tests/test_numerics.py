"""The accuracy criterion accepts a right LSTM and rejects every wrong one."""

from __future__ import annotations

import pytest
import torch
from numerics import FLOOR, GROSS_MUTANTS, LSTM, MUTANTS, assert_no_worse, relative_error
from torch import Tensor

from ulmfit_fast import reference

T, B, H = 9, 3, 24


def draw_lstm_inputs() -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(T, B, H), (B, H), (B, H), (4 * H, H), (4 * H, H), (4 * H,), (4 * H,)]
    return [torch.randn(shape) * (0.2 if shape[0] == 4 * H else 1.0) for shape in shapes]


def run(lstm: LSTM, inputs: list[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return y, the last state and the gradient of every input."""
    x, h0, c0, *weights = leaves = [t.to(dtype, copy=True).requires_grad_() for t in inputs]
    w_ih, w_hh, b_ih, b_hh = weights
    y, (h, c) = lstm(x, (h0, c0), (w_ih, w_hh, b_ih, b_hh), 0.4, torch.tensor([7]))
    y.square().sum().backward()
    names = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")
    grads = {f"d{name}": leaf.grad for name, leaf in zip(names, leaves, strict=True)}
    return {"y": y, "h": h, "c": c, **{k: g for k, g in grads.items() if g is not None}}


def compare(lstm: LSTM, dtype: torch.dtype) -> None:
    inputs = [t.to(dtype) for t in draw_lstm_inputs()]
    exact = run(reference.lstm, inputs, torch.float64)
    plain = run(reference.lstm, inputs, dtype)
    fused = run(lstm, inputs, dtype)
    for name in exact:
        assert_no_worse(name, fused[name], plain[name], exact[name], dtype)


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
def test_criterion_accepts_the_reference(dtype: torch.dtype) -> None:
    compare(reference.lstm, dtype)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_criterion_rejects_a_wrong_lstm(mutant: str) -> None:
    with pytest.raises(AssertionError, match="allowed"):
        compare(MUTANTS[mutant], torch.float32)


@pytest.mark.parametrize("mutant", GROSS_MUTANTS)
def test_criterion_rejects_a_grossly_wrong_lstm_in_bfloat16(mutant: str) -> None:
    with pytest.raises(AssertionError, match="allowed"):
        compare(MUTANTS[mutant], torch.bfloat16)


def test_criterion_rejects_nan_and_names_its_place() -> None:
    exact = torch.ones(2, 3)
    broken = exact.clone()
    broken[1, 2] = torch.nan
    with pytest.raises(AssertionError, match=r"y .*error inf.*\(1, 2\): nan, exact 1"):
        assert_no_worse("y", broken, exact, exact, torch.float32)


def test_relative_error_of_a_zero_result_is_absolute() -> None:
    assert relative_error(torch.tensor([3.0, 4.0]), torch.zeros(2)) == 5.0
