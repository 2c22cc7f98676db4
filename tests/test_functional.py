"""The documented functions: as exact as plain PyTorch, and clear about what they refuse."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import FLOOR, GROSS_MUTANTS, MUTANTS, assert_no_worse, relative_error
from torch import Tensor

from ulmfit_fast import functional, reference

SEED = torch.tensor(20260923)
SHAPES = [(1, 1, 1), (3, 2, 7), (17, 5, 64), (70, 4, 96)]  # (T, B, H)


def draw(shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    T, B, H = shape
    generator = torch.Generator().manual_seed(T + 10 * B + 100 * H)
    sizes = [(T, B, H), (B, H), (B, H), (4 * H, H), (4 * H, H), (4 * H,), (4 * H,)]
    return [
        (torch.randn(size, generator=generator) * (1.0 if i < 3 else H**-0.5)).to(dtype)
        for i, size in enumerate(sizes)
    ]


def run_with_grads(lstm, inputs: list[Tensor], drop_p: float) -> dict[str, Tensor]:
    names = ["x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh"]
    leaves = [x.detach().requires_grad_() for x in inputs]
    y, (h, c) = lstm(leaves[0], (leaves[1], leaves[2]), tuple(leaves[3:]), drop_p, SEED)
    out = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype)
    grads = torch.autograd.grad((y * out).sum() + (c * 0.5).sum() + h.sum(), leaves)
    return {"y": y, "h": h, "c": c, **{f"d{n}": g for n, g in zip(names, grads, strict=True)}}


# torch's own LSTM sums the bias gradients over T x B rows in float32 in another order than the
# reference: 1.2e-6 at T 70, B 4, H 96 (2026-11-23), where the reference has 3e-7.
TORCH_LSTM_ERROR = 3e-6


@pytest.mark.parametrize("drop_p", [0.0, 0.5])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "T{}-B{}-H{}".format(*s))
def test_lstm_gives_the_reference_numbers(shape: tuple[int, int, int], drop_p: float) -> None:
    inputs = draw(shape, torch.float32)
    exact = run_with_grads(reference.lstm, [x.double() for x in inputs], drop_p)
    fused = run_with_grads(functional.lstm, inputs, drop_p)
    for name in exact:
        assert relative_error(fused[name], exact[name]) < TORCH_LSTM_ERROR, name


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in MUTANTS]
    + [(name, torch.bfloat16) for name in GROSS_MUTANTS],
)
def test_wrong_lstms_fail_the_criterion(name: str, dtype: torch.dtype) -> None:
    inputs = draw((17, 5, 64), dtype)
    exact = run_with_grads(reference.lstm, [x.double() for x in inputs], 0.5)
    plain = run_with_grads(reference.lstm, inputs, 0.5)
    wrong = run_with_grads(MUTANTS[name], inputs, 0.5)
    worst = max(
        relative_error(wrong[key], exact[key])
        / (2 * relative_error(plain[key], exact[key]) + FLOOR[dtype])
        for key in exact
    )
    assert worst > 1, f"{name} passes as a correct LSTM in {dtype}"
    key = max(exact, key=lambda key: relative_error(wrong[key], exact[key]))
    with pytest.raises(AssertionError, match="allowed"):
        assert_no_worse(key, wrong[key], plain[key], exact[key], dtype)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.floats(0.0, 0.99), st.integers(-(2**63), 2**63 - 1)
)
def test_embedding_dropout_equals_the_reference(V: int, E: int, drop_p: float, seed: int) -> None:
    weight = torch.randn(V, E, requires_grad=True)
    ids = torch.randint(0, V, (3, 5))
    found = functional.embedding_dropout(ids, weight, drop_p, torch.tensor(seed))
    expected = reference.embedding_dropout(ids, weight, drop_p, torch.tensor(seed))
    assert torch.equal(found, expected)
    (d_found,) = torch.autograd.grad(found.square().sum(), weight)
    (d_expected,) = torch.autograd.grad(expected.square().sum(), weight)
    assert relative_error(d_found, d_expected) < 1e-6


def test_variational_dropout_equals_the_reference() -> None:
    x = torch.randn(7, 3, 10)
    expected = reference.variational_dropout(x, 0.3, SEED)
    assert torch.equal(functional.variational_dropout(x, 0.3, SEED), expected)


def test_seeds_follow_manual_seed() -> None:
    torch.manual_seed(3)
    first = functional.draw_seeds(5, "cpu")
    torch.manual_seed(3)
    assert torch.equal(first, functional.draw_seeds(5, "cpu"))
    assert len(set(first.tolist())) == 5


W = torch.randn(4, 3)
BAD_CALLS = {
    "drop_p: expected a chance in [0, 1), found 1.0": lambda: functional.drop_connect(W, 1.0, SEED),
    "drop_p: expected a chance in [0, 1), found -0.1": lambda: functional.drop_connect(
        W, -0.1, SEED
    ),
    "drop_p: expected a chance in [0, 1), found nan": lambda: functional.drop_connect(
        W, float("nan"), SEED
    ),
    "weight: expected a floating-point": lambda: functional.drop_connect(W.long(), 0.5, SEED),
    "seed: expected an int64 tensor with one element, found torch.int64 [2]": (
        lambda: functional.drop_connect(W, 0.5, SEED.repeat(2))
    ),
    "seed: expected an int64 tensor with one element, found torch.float32 []": (
        lambda: functional.drop_connect(W, 0.5, SEED.float())
    ),
    "seed: expected on meta beside weight, found on cpu": (
        lambda: functional.drop_connect(W.to("meta"), 0.5, SEED)
    ),
    "output: expected shape [B, T, E], found [4, 3]": (
        lambda: functional.concat_pool(W, SEED, SEED)
    ),
    "end: expected shape [2], found []": (
        lambda: functional.concat_pool(W.reshape(2, 2, 3), SEED.repeat(2), SEED)
    ),
    "hidden, weight: expected shapes [N, E] and [V, E], found [4, 3] and [3, 4]": (
        lambda: functional.linear_cross_entropy(W, W.t(), None, SEED.repeat(4))
    ),
    "targets: expected shape [4], found [1]": (
        lambda: functional.linear_cross_entropy(W, W, None, SEED.repeat(1))
    ),
    "x: expected shape [T, B, E]": lambda: functional.variational_dropout(W, 0.5, SEED),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_arguments_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BAD_CALLS[message]()


@pytest.mark.parametrize("position", range(7))
def test_lstm_names_the_argument_of_the_wrong_shape(position: int) -> None:
    inputs = draw((3, 2, 5), torch.float32)
    inputs[position] = inputs[position][..., :-1] if position else inputs[position][0]
    name = ["x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh"][position]
    state, weights = (inputs[1], inputs[2]), tuple(inputs[3:])
    with pytest.raises(ValueError, match="expected shape") as raised:
        functional.lstm(inputs[0], state, weights, 0.0, None)
    # A cut w_hh changes H itself, so the first argument that disagrees with it is named.
    assert str(raised.value).startswith(name if name != "w_hh" else "w_ih")


def test_lstm_refuses_an_empty_sequence_and_a_missing_seed() -> None:
    inputs = draw((3, 2, 5), torch.float32)
    state, weights = (inputs[1], inputs[2]), tuple(inputs[3:])
    with pytest.raises(ValueError, match="T, B >= 1"):
        functional.lstm(inputs[0][:0], state, weights, 0.0, None)
    with pytest.raises(ValueError, match="seed: a tensor is needed"):
        functional.lstm(inputs[0], state, weights, 0.5, None)
