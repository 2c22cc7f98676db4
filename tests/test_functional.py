"""The documented functions but the LSTM: equal to the reference, clear about what they refuse."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import relative_error

from ulmfit_fast import functional, reference

SEED = torch.tensor(20260923)


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


def test_a_padding_index_may_count_from_the_end() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    ids = torch.tensor([0, 3, 3, 2])
    found = functional.embedding_dropout(ids, weight, 0.0, None, -1)
    expected = torch.nn.functional.embedding(ids, weight, -1)
    for embedded in (found, expected):
        (grad,) = torch.autograd.grad(embedded.sum(), weight)
        assert grad[:, 0].tolist() == [1, 0, 1, 0]


def test_variational_dropout_of_nothing_is_the_input() -> None:
    x = torch.randn(7, 3, 10)
    assert functional.variational_dropout(x, 0.0, None) is x


def test_seeds_follow_manual_seed() -> None:
    torch.manual_seed(3)
    first = functional.draw_seeds(5, "cpu")
    torch.manual_seed(3)
    assert torch.equal(first, functional.draw_seeds(5, "cpu"))
    assert len(set(first.tolist())) == 5


W = torch.randn(4, 3)
IDS = torch.tensor([0, 3])
BAD_CALLS = {
    "ids: expected 0..2, one for each row of the table; found 3 at [1]": (
        lambda: functional.embedding_dropout(IDS, W[:3], 0.5, SEED)
    ),
    "padding_idx: expected a row of the table, found 4 for 4 rows": (
        lambda: functional.embedding_dropout(IDS, W, 0.0, None, 4)
    ),
    "ids: expected int64, found torch.int32; call ids.long()": (
        lambda: functional.embedding_dropout(IDS.int(), W, 0.5, SEED)
    ),
    "found NoneType; functional.draw_seeds(1, device) makes one": (
        lambda: functional.embedding_dropout(IDS, W, 0.5, None)
    ),
    "found int; torch.tensor(7) makes one": lambda: functional.drop_connect(W, 0.5, 7),  # type: ignore[arg-type]
    "start, end: expected 0 <= start < end <= 3, found 1 and 4 in row 0": (
        lambda: functional.concat_pool(W[None, :3], torch.tensor([1]), torch.tensor([4]))
    ),
    "start: expected int64, found torch.int32; call .long()": (
        lambda: functional.concat_pool(W[None], torch.tensor([1]).int(), torch.tensor([4]))
    ),
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
