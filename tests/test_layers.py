"""The compiled CPU kernels of dropouts, regularisation, pooling and embeddings, held to float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_calls import OPS, SEED, Case, check, draw, laid_out, run
from numerics import FLOOR
from torch import Tensor

from ulmfit_fast import _native, reference

pytestmark = pytest.mark.skipif(
    _native.why_missing("concat_pool", "cpu") is not None,
    reason=f"no compiled CPU kernels: {_native.why_missing('concat_pool', 'cpu')}",
)
ops = torch.ops.ulmfit_fast

#: Around vectors of 2 to 16 numbers, tasks of 64 steps and 1024 or 512 columns, runs of 32.
SHAPES = [(1, 1, 1), (3, 5, 7), (9, 1, 33), (67, 3, 401), (2, 2, 1100)]
CASES = [
    *(Case(shape, dtype) for shape in SHAPES for dtype in FLOOR),
    *(Case((67, 3, 401), dtype, None) for dtype in FLOOR),
    *(Case((7, 3, 24), dtype, 0.0) for dtype in FLOOR),
    *(Case((35, 4, 19), dtype, layout="batch first") for dtype in FLOOR),
    *(Case((35, 4, 19), dtype, layout="strided") for dtype in FLOOR),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.usefixtures("_instruction_set")
def test_layer_is_as_accurate_as_the_reference(op: str, case: Case) -> None:
    check(getattr(ops, op), op, draw(case)[op])


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_layer_does_not_depend_on_the_number_of_threads(op: str, dtype: torch.dtype) -> None:
    arguments = draw(Case((130, 3, 700), dtype))[op]
    found = []
    for n_threads in (3, 2, 1):  # the suite runs on one
        torch.set_num_threads(n_threads)
        found.append(run(getattr(ops, op), arguments))
    for result in found[:2]:
        assert all(torch.equal(*pair) for pair in zip(result, found[2], strict=True))


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.usefixtures("_instruction_set")
def test_long_documents_are_summed_as_exactly_as_by_pytorch(dtype: torch.dtype) -> None:
    # Terms of one sign, where the error of a plain sum grows with their number.
    x = torch.rand(1500, 2, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    start, end = torch.tensor([0, 3]), torch.tensor([1500, 1499])
    check(ops.concat_pool, "concat_pool", (x.transpose(0, 1), start, end))
    check(ops.activation_regularization, "activation_regularization", (x, 0.0, None, 2.0, 1.0))
    ids = torch.arange(3000).view(1500, 2) % 2
    rest = (ids, 3, 0.0, None, None)
    check(ops.embedding_dropout_backward, "embedding_dropout_backward", (x, *rest))


def _mask_of_another_seed(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    return reference.variational_dropout(x, drop_p, seed + 1)


def _jumps_over_all_steps(
    x: Tensor, drop_p: float, seed: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    beta *= (len(x) - 1) / len(x)
    return reference.activation_regularization(x, drop_p, seed, alpha, beta)


def _last_jump_has_no_gradient(d_dropped: Tensor, d_penalty: Tensor, *rest: Any) -> Tensor:
    dx = reference.activation_regularization_backward(d_dropped, d_penalty, *rest)
    without = (*rest[:-1], 0.0)
    dx[-1] = reference.activation_regularization_backward(d_dropped, d_penalty, *without)[-1]
    return dx


def _last_of_equals_is_the_largest(
    output: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    T = output.shape[1]
    pooled, _ = reference.concat_pool(output, start, end)
    return pooled, T - 1 - reference.concat_pool(output.flip(1), T - end, T - start)[1]


def _mean_over_all_steps(
    grad: Tensor, argmax: Tensor, start: Tensor, end: Tensor, n_positions: int
) -> Tensor:
    last, largest, mean = grad.chunk(3, dim=1)
    mean = mean * ((end - start) / n_positions).unsqueeze(1)
    grad = torch.cat([last, largest, mean], dim=1)
    return reference.concat_pool_backward(grad, argmax, start, end, n_positions)


def _mask_of_tokens(
    ids: Tensor, weight: Tensor, drop_p: float, seed: Tensor, padding_idx: int | None
) -> Tensor:
    embedded = reference.embedding_dropout(ids, weight, 0.0, None, padding_idx)
    places = torch.arange(ids.numel()).view(ids.shape)
    keep = reference.masks.keep_at(places, drop_p, seed).unsqueeze(-1)
    return torch.where(keep, embedded / (1 - drop_p), 0.0)


def _padding_learns(grad: Tensor, *rest: Any) -> Tensor:
    return reference.embedding_dropout_backward(grad, *rest[:-1], None)


MUTANTS = dict(
    zip(
        OPS,
        (
            _mask_of_another_seed,
            _jumps_over_all_steps,
            _last_jump_has_no_gradient,
            _last_of_equals_is_the_largest,
            _mean_over_all_steps,
            _mask_of_tokens,
            _padding_learns,
        ),
        strict=True,
    )
)


@pytest.mark.parametrize("op", OPS)
def test_wrong_layer_is_rejected(op: str) -> None:
    arguments = draw(Case((67, 3, 401)))[op]
    if op == "concat_pool":
        arguments = (arguments[0].mul(2).round(), *arguments[1:])  # with ties
    check(getattr(reference, op), op, arguments)
    with pytest.raises(AssertionError, match=f"of {op}"):
        check(MUTANTS[op], op, arguments)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 4), st.integers(1, 40)),
    dtype=st.sampled_from(list(FLOOR)),
    layout=st.sampled_from(["contiguous", "batch first", "strided"]),
    data=st.data(),
)
def test_pooling_of_any_positions_with_ties(
    shape: tuple[int, int, int], dtype: torch.dtype, layout: str, data: st.DataObject
) -> None:
    T, B, _ = shape
    start = torch.tensor([data.draw(st.integers(0, T - 1)) for _ in range(B)])
    end = torch.tensor([data.draw(st.integers(int(first) + 1, T)) for first in start])
    torch.manual_seed(T)
    x = laid_out(torch.randn(shape).mul(2).round().div(2).to(dtype), layout)
    arguments = (x.transpose(0, 1), start, end)
    check(ops.concat_pool, "concat_pool", arguments)
    pooled, argmax = reference.concat_pool(*arguments)
    grad = torch.randn_like(pooled)
    check(ops.concat_pool_backward, "concat_pool_backward", (grad, argmax, start, end, T))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    ids=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    E=st.integers(1, 20),
    dtype=st.sampled_from(list(FLOOR)),
    drop_p=st.none() | st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(-(2**63), 2**63 - 1),
    padding=st.none() | st.integers(0, 6),
)
def test_embedding_of_any_ids(
    ids: list[int], E: int, dtype: torch.dtype, drop_p: float | None, seed: int, padding: int | None
) -> None:
    torch.manual_seed(E)
    places, weight = torch.tensor(ids), torch.randn(7, E).to(dtype)
    rest = (drop_p or 0.0, None if drop_p is None else torch.tensor(seed), padding)
    check(ops.embedding_dropout, "embedding_dropout", (places, weight, *rest))
    grad = torch.randn(len(ids), E).to(dtype)
    arguments = (grad, places, 7, *rest)
    check(ops.embedding_dropout_backward, "embedding_dropout_backward", arguments)


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.usefixtures("_instruction_set")
def test_dropped_numbers_are_zero_whatever_they_were(dtype: torch.dtype) -> None:
    x = torch.full((3, 2, 40), torch.nan, dtype=dtype)
    kept = reference.keep_mask((2, 40), 0.5, SEED).expand(3, 2, 40)
    words = reference.keep_mask((80,), 0.5, SEED)
    results = {
        "sequence": (ops.variational_dropout(x, 0.5, SEED), kept),
        "regularized": (ops.activation_regularization(x, 0.5, SEED, 2.0, 0.0)[0], kept),
        "words": (ops.embedding_dropout(torch.arange(80), x.view(80, 3), 0.5, SEED, None), words),
        "table": (
            ops.embedding_dropout_backward(x.view(80, 3), torch.arange(80), 80, 0.5, SEED, None),
            words,
        ),
    }
    for name, (found, keep) in results.items():
        keep = keep if found.shape == keep.shape else keep.unsqueeze(1).expand_as(found)
        assert torch.equal(found.isnan(), keep), name
        assert not torch.signbit(found[~keep]).any(), name
        assert not found[~keep].count_nonzero(), name


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.usefixtures("_instruction_set")
def test_pooling_lets_nan_through_and_reads_valid_positions_only(dtype: torch.dtype) -> None:
    output = torch.randint(-4, 5, (3, 9, 20)).to(dtype)  # its sums are exact
    output[0, 2:5] = torch.nan  # outside of row 0's positions
    output[1, [3, 7], 4] = torch.nan
    output[2, :, 6] = -torch.inf
    start, end = torch.tensor([5, 0, 0]), torch.tensor([9, 9, 9])
    found, argmax = ops.concat_pool(output, start, end)
    plain, expected = reference.concat_pool(output, start, end)
    assert torch.equal(argmax, expected)
    assert int(argmax[1, 4]) == 3
    torch.testing.assert_close(found, plain, rtol=0.0, atol=0.0, equal_nan=True)


def test_embedding_gradient_is_the_sum_in_the_order_of_tokens() -> None:
    # 2^24 swallows a 1 that is added after it, and not the sum of those before.
    grad = torch.ones(50, 2)
    grad[-1] = 2.0**24
    dw = ops.embedding_dropout_backward(grad, torch.full((50,), 3), 5, 0.0, None, None)
    assert dw[3].tolist() == [2.0**24 + 48] * 2
    assert dw.count_nonzero() == 2


def test_tensors_without_elements_are_no_special_case() -> None:
    for shape in ((0, 2, 5), (3, 0, 5), (3, 2, 0)):
        x = torch.empty(shape)
        assert ops.variational_dropout(x, 0.5, SEED).shape == x.shape
        dropped, penalty = ops.activation_regularization(x, 0.5, SEED, 2.0, 1.0)
        assert dropped.shape == x.shape
        assert bool(penalty.isnan())
        dx = ops.activation_regularization_backward(x, penalty, x, 0.5, SEED, 2.0, 1.0)
        assert dx.shape == x.shape
    ids, weight = torch.empty(0, 3, dtype=torch.int64), torch.randn(4, 5)
    assert ops.embedding_dropout(ids, weight, 0.5, SEED, None).shape == (0, 3, 5)
    dw = ops.embedding_dropout_backward(torch.empty(0, 3, 5), ids, 4, 0.5, SEED, None)
    assert torch.equal(dw, torch.zeros(4, 5))


X, IDS, TABLE = torch.randn(4, 3, 5), torch.tensor([[0, 1], [7, 2]]), torch.randn(7, 5)
ONE, PLACES = torch.tensor(1.0), torch.zeros(3, 5, dtype=torch.int64)
START, END = torch.tensor([0, 0, 0]), torch.tensor([4, 4, 4])
REFUSED: dict[str, Callable[[], object]] = {
    "x: expected shape": lambda: ops.variational_dropout(TABLE, 0.5, SEED),
    "x: expected float32, float64, bfloat16 or float16": (
        lambda: ops.variational_dropout(X.long(), 0.5, SEED)
    ),
    "drop_p: expected a chance": lambda: ops.variational_dropout(X, 1.0, SEED),
    "seed: expected an int64 tensor": lambda: ops.variational_dropout(X, 0.5, SEED.repeat(2)),
    "d_dropped: expected x's dtype and shape": (
        lambda: ops.activation_regularization_backward(X[:2], ONE, X, 0.5, SEED, 1.0, 1.0)
    ),
    "d_penalty: expected one number": (
        lambda: ops.activation_regularization_backward(X, X[0], X, 0.5, SEED, 1.0, 1.0)
    ),
    "start, end: expected int64 tensors of shape": (
        lambda: ops.concat_pool(X.transpose(0, 1), START[:2], END)
    ),
    "expected 0 <= start < end <= 4, found 0 and 5 in row 1": (
        lambda: ops.concat_pool(X.transpose(0, 1), START, END + torch.tensor([0, 1, 0]))
    ),
    "found 4 and 4 in row 0": lambda: ops.concat_pool(X.transpose(0, 1), START + 4, END),
    "grad: expected shape .B, 3E.": (
        lambda: ops.concat_pool_backward(TABLE, PLACES, START, END, 4)
    ),
    "ids: expected 0..6, one for each row of the table; found 7 at token 2": (
        lambda: ops.embedding_dropout(IDS, TABLE, 0.0, None, None)
    ),
    "found -1 at token 0": (
        lambda: ops.embedding_dropout_backward(X[:1, :1], IDS[:1, :1] - 1, 7, 0.0, None, None)
    ),
    "grad: expected shape ..ids.shape, E.": (
        lambda: ops.embedding_dropout_backward(X, IDS, 7, 0.0, None, None)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_read_foreign_memory_is_refused(message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message]()
