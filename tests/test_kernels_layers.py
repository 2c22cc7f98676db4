"""Dropouts, regularisation and pooling in Triton's interpreter: the masks of the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_no_worse
from torch import Tensor
from triton_interpreter import MARKS

from ulmfit_fast import reference
from ulmfit_fast.kernels import (
    activation_regularization,
    concat_pool,
    embedding_dropout,
    embedding_rows,
    sequence_tiles,
    variational_dropout,
)

pytestmark = [
    *MARKS,
    pytest.mark.filterwarnings("ignore:invalid value encountered in:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered in:RuntimeWarning"),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = ("contiguous", "batch first", "reversed", "strided")
SEED = torch.tensor([2**40 + 3])

shapes = st.tuples(st.integers(1, 20), st.integers(1, 4), st.integers(1, 40))
dtypes, layouts = st.sampled_from(DTYPES), st.sampled_from(LAYOUTS)
chances = st.sampled_from((0.0, 0.3, 0.9))
seeds = st.integers(-(2**63), 2**63 - 1)


def sequence(shape: tuple[int, int, int], dtype: torch.dtype, layout: str, seed: int = 0) -> Tensor:
    """Draw [T, B, E] in a layout; what lies between its elements is NaN."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(dtype)
    if layout == "batch first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "reversed":
        return x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    if layout == "strided":
        buffer = torch.full([size + 2 for size in shape], torch.nan, dtype=dtype)
        buffer[1:-1, 1:-1, 1:-1] = x
        return buffer[1:-1, 1:-1, 1:-1]
    return x


def compare(name: str, found: Tensor, plain: Tensor, exact: Tensor) -> None:
    """Hold a result to the criterion; it is contiguous, and of plain's dtype."""
    assert found.is_contiguous(), name
    assert found.dtype == plain.dtype, name
    assert_no_worse(name, found, plain, exact, found.dtype)


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module in (variational_dropout, activation_regularization):
            patch.setattr(module, "BLOCK", 16)
            patch.setattr(module, "RUN", 3)
        patch.setattr(activation_regularization, "BLOCK_SUMS", 4)
        patch.setattr(embedding_dropout, "BLOCK_E", 16)
        patch.setattr(embedding_dropout, "CHUNK", 3)
        patch.setattr(embedding_dropout, "HEADS", 2)
        patch.setattr(concat_pool, "BLOCK_T", 4)
        patch.setattr(concat_pool, "BLOCK_E", 16)
        yield


@settings(derandomize=True, deadline=None, max_examples=40)
@given(shape=shapes, dtype=dtypes, layout=layouts, drop_p=chances, seed=seeds)
def test_triton_variational_dropout_has_the_bits_of_the_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, layout: str, drop_p: float, seed: int
) -> None:
    x, seed_tensor = sequence(shape, dtype, layout), torch.tensor([seed])
    found = variational_dropout.variational_dropout(x, drop_p, seed_tensor)
    assert torch.equal(found, reference.variational_dropout(x, drop_p, seed_tensor))
    assert found.is_contiguous()


def test_dropped_features_are_zero_whatever_they_were() -> None:
    x = torch.full((3, 2, 40), torch.nan)
    found = variational_dropout.variational_dropout(x, 0.5, SEED)
    assert torch.equal(found.isnan(), reference.keep_mask((2, 40), 0.5, SEED).expand(3, 2, 40))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(shape=shapes, dtype=dtypes, layout=layouts, drop_p=chances, seed=st.none() | seeds)
def test_triton_regularization_is_as_accurate_as_the_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, layout: str, drop_p: float, seed: int | None
) -> None:
    x = sequence(shape, dtype, layout)
    seed_tensor = None if seed is None else torch.tensor([seed])
    rest = (0.0 if seed is None else drop_p, seed_tensor, 2.0, 1.0)
    dropped, penalty = activation_regularization.activation_regularization(x, *rest)
    plain = reference.activation_regularization(x, *rest)
    exact = reference.activation_regularization(x.double(), *rest)
    assert torch.equal(dropped, plain[0])
    if dtype != torch.float64:  # the square is that of the rounded, dropped element
        exact_of_rounded = 2.0 * (x if seed is None else dropped).double().square().mean()
        jumps = x.double().diff(dim=0)
        exact = exact[0], exact_of_rounded + (jumps.square().mean() if len(x) > 1 else 0.0)
    compare("penalty", penalty, plain[1], exact[1])
    d_dropped = sequence(shape, dtype, layout, 1) if seed is not None else x.new_empty(0)
    arguments = (d_dropped, torch.tensor(1.5, dtype=penalty.dtype), x, *rest)
    backward = activation_regularization.activation_regularization_backward
    expected = reference.activation_regularization_backward
    wide = [a.double() if isinstance(a, Tensor) and a is not seed_tensor else a for a in arguments]
    compare("dx", backward(*arguments), expected(*arguments), expected(*wide))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    n=st.tuples(st.integers(1, 5), st.integers(1, 9)),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 40)),
    dtype=dtypes,
    drop_p=chances,
    seed=st.none() | seeds,
    transposed=st.booleans(),
)
def test_triton_embedding_dropout_has_the_bits_of_the_reference(
    n: tuple[int, int],
    sizes: tuple[int, int],
    dtype: torch.dtype,
    drop_p: float,
    seed: int | None,
    transposed: bool,
) -> None:
    generator = torch.Generator().manual_seed(n[0])
    ids = torch.randint(0, sizes[0], n, generator=generator)
    weight = torch.randn(sizes, generator=generator).to(dtype)
    if transposed:
        ids, weight = ids.t(), weight.t().contiguous().t()
    seed_tensor = None if seed is None else torch.tensor([seed])
    arguments = (ids, weight, 0.0 if seed is None else drop_p, seed_tensor, None)
    found = embedding_dropout.embedding_dropout(*arguments)
    assert torch.equal(found, reference.embedding_dropout(*arguments))
    assert found.is_contiguous()


@pytest.mark.parametrize("seed", [None, SEED])
def test_ids_outside_of_the_table_give_nan_and_no_gradient(seed: Tensor | None) -> None:
    ids = torch.tensor([[0, -1, 7], [2**40, 6, -(2**62)]])
    weight = torch.randn(7, 5)
    found = embedding_dropout.embedding_dropout(ids, weight, 0.5, seed, None)
    exists = (ids >= 0) & (ids < 7)
    assert torch.equal(found.isnan().all(-1), ~exists)
    assert torch.equal(found.isnan().any(-1), ~exists)
    grad = torch.ones(2, 3, 5)
    dw = embedding_dropout.embedding_dropout_backward(grad, ids, 7, 0.0, None, None)
    expected = torch.zeros(7, 5)
    expected[[0, 6]] = 1.0
    assert torch.equal(dw, expected)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    ids=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    E=st.integers(1, 20),
    dtype=dtypes,
    drop_p=chances,
    seed=st.none() | seeds,
    padding=st.none() | st.integers(0, 6),
)
def test_triton_embedding_gradient_is_as_accurate_as_the_reference(
    ids: list[int],
    E: int,
    dtype: torch.dtype,
    drop_p: float,
    seed: int | None,
    padding: int | None,
) -> None:
    # Some ids many times, so that runs of equal ones begin and end anywhere in a chunk.
    places = torch.tensor(ids)
    grad = sequence((len(ids), 1, E), dtype, "contiguous")[:, 0]
    seed_tensor = None if seed is None else torch.tensor([seed])
    rest = (places, 9, 0.0 if seed is None else drop_p, seed_tensor, padding)
    found = embedding_dropout.embedding_dropout_backward(grad, *rest)
    plain = reference.embedding_dropout_backward(grad, *rest)
    compare("dw", found, plain, reference.embedding_dropout_backward(grad.double(), *rest))
    untouched = torch.isin(torch.arange(9), places, invert=True)
    assert not found[untouched].count_nonzero()


def test_embedding_gradient_of_one_word_is_the_sum_in_order() -> None:
    # 1e8 swallows a 1 that is added after it, and not the sum of those before.
    grad = torch.ones(50, 2)
    grad[-1] = 2.0**24
    rest = (torch.full((50,), 3), 5, 0.0, None, None)
    found = embedding_dropout.embedding_dropout_backward(grad, *rest)
    assert found[3].tolist() == [2.0**24 + 49 // 2 * 2] * 2
    assert torch.equal(found, embedding_dropout.embedding_dropout_backward(grad, *rest))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(shape=shapes, dtype=dtypes, layout=layouts, data=st.data())
def test_triton_pooling_is_as_accurate_as_the_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, layout: str, data: st.DataObject
) -> None:
    T, B, E = shape
    start = torch.tensor([data.draw(st.integers(0, T - 1)) for _ in range(B)])
    end = torch.tensor([data.draw(st.integers(int(first) + 1, T)) for first in start])
    output = sequence(shape, dtype, layout).transpose(0, 1)
    output.mul_(2).round_().div_(2)  # with ties
    found, argmax = concat_pool.concat_pool(output, start, end)
    plain, expected = reference.concat_pool(output, start, end)
    exact, _ = reference.concat_pool(output.double(), start, end)
    assert torch.equal(argmax, expected)
    compare("pooled", found, plain, exact)
    assert torch.equal(found[:, : 2 * E], plain[:, : 2 * E])
    grad = sequence((B, 3, E), dtype, layout).flatten(1)
    found = concat_pool.concat_pool_backward(grad, argmax, start, end, T)
    plain = reference.concat_pool_backward(grad, argmax, start, end, T)
    exact = reference.concat_pool_backward(grad.double(), argmax, start, end, T)
    compare("d_output", found, plain, exact)


def test_pooling_lets_nan_through_and_reads_valid_positions_only() -> None:
    output = torch.randn(3, 9, 20)
    output[0, 2:5] = torch.nan  # outside of row 0's positions
    output[1, [3, 7], 4] = torch.nan
    output[2, :, 6] = -torch.inf
    start, end = torch.tensor([5, 0, 0]), torch.tensor([9, 9, 9])
    found, argmax = concat_pool.concat_pool(output, start, end)
    plain, expected = reference.concat_pool(output, start, end)
    assert torch.equal(argmax, expected)
    assert int(argmax[1, 4]) == 3
    assert torch.equal(found.isnan(), plain.isnan())
    assert torch.allclose(found, plain, equal_nan=True)


@pytest.mark.parametrize(("start", "end"), [(4, 4), (5, 2), (-7, -3), (9, 11), (2**40, 2**41)])
def test_pooling_of_no_valid_position_is_nan(start: int, end: int) -> None:
    places = torch.tensor([start]), torch.tensor([end])
    found, argmax = concat_pool.concat_pool(torch.randn(1, 9, 5), *places)
    assert bool(found.isnan().all())
    assert not argmax.count_nonzero()


def test_tensors_without_elements_launch_nothing() -> None:
    x = torch.empty(3, 0, 5)
    assert variational_dropout.variational_dropout(x, 0.5, SEED).shape == x.shape
    dropped, penalty = activation_regularization.activation_regularization(x, 0.5, SEED, 2.0, 1.0)
    assert dropped.shape == x.shape
    assert bool(penalty.isnan())
    ids, weight = torch.empty(0, 3, dtype=torch.int64), torch.randn(4, 5)
    assert embedding_dropout.embedding_dropout(ids, weight, 0.5, SEED, None).shape == (0, 3, 5)
    grad = torch.empty(0, 3, 5)
    dw = embedding_dropout.embedding_dropout_backward(grad, ids, 4, 0.5, SEED, None)
    assert torch.equal(dw, torch.zeros(4, 5))


@pytest.mark.parametrize(
    ("module", "name"), [(sequence_tiles, "_philox_words"), (embedding_rows, "_philox_words")]
)
def test_another_mask_is_found_out(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda block, seed: original(block + 1, seed))
    x, ids = torch.ones(2, 3, 40), torch.arange(60)
    if module is sequence_tiles:
        found = variational_dropout.variational_dropout(x, 0.5, SEED)
        assert not torch.equal(found, reference.variational_dropout(x, 0.5, SEED))
    else:
        arguments = (ids, torch.ones(60, 1), 0.5, SEED, None)
        found = embedding_dropout.embedding_dropout(*arguments)
        assert not torch.equal(found, reference.embedding_dropout(*arguments))
