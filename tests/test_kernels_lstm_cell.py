"""The parts of the Triton LSTM in Triton's interpreter: masks of the same bits, exact gates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import MARKS, tl, triton

from ulmfit_fast import reference
from ulmfit_fast.kernels import lstm

pytestmark = MARKS
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@triton.jit
def _words_kernel(out_ptr, block_ptr, seed_ptr, words, N: tl.constexpr):
    offs = tl.arange(0, N)
    w0, w1, w2, w3 = words(tl.load(block_ptr + offs), tl.load(seed_ptr))
    tl.store(out_ptr + 4 * offs, w0.to(tl.int64))
    tl.store(out_ptr + 4 * offs + 1, w1.to(tl.int64))
    tl.store(out_ptr + 4 * offs + 2, w2.to(tl.int64))
    tl.store(out_ptr + 4 * offs + 3, w3.to(tl.int64))


@triton.jit
def _apply_kernel(out_ptr, in_ptr, function, N: tl.constexpr):
    offs = tl.arange(0, N)
    tl.store(out_ptr + offs, function(tl.load(in_ptr + offs)))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 60)),
    transposed=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    drop_p=st.floats(0, 1, exclude_max=True),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_triton_mask_has_the_bits_of_the_reference(
    shape: tuple[int, int], transposed: bool, dtype: torch.dtype, drop_p: float, seed: int
) -> None:
    weight = torch.randn(shape).to(dtype)
    weight = weight.t() if transposed else weight
    seeds = torch.tensor([seed])
    found = lstm.dropped_weight(weight, drop_p, seeds)
    assert torch.equal(found, reference.drop_connect(weight, drop_p, seeds))
    assert found.is_contiguous()


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**32 - 1, 2**32, -(2**63), 2**63 - 1])
def test_triton_philox_counts_beyond_32_bits(seed: int) -> None:
    from ulmfit_fast.kernels import lstm_cell

    block = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 5 * 2**40 + 7])
    seeds = torch.tensor([seed])
    found = torch.empty(len(block), 4, dtype=torch.int64)
    _words_kernel[(1,)](found, block, seeds, lstm_cell._philox_words, len(block))
    zero = torch.zeros_like(block)
    counter = (block & reference.WORD, block >> 32, zero, zero)
    key = (seeds & reference.WORD, (seeds >> 32) & reference.WORD)
    assert torch.equal(found, torch.stack(reference.philox4x32(counter, key), dim=1))


# Measured in the interpreter 2026-11-23, whose exp is numpy's: sigmoid 1.2e-7, tanh 2.4e-7.
FUNCTION_ERROR = {torch.float32: 3e-7, torch.float64: 6e-16}


@pytest.mark.parametrize("dtype", FUNCTION_ERROR, ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_triton_gate_functions_keep_their_digits_near_zero(name: str, dtype: torch.dtype) -> None:
    from ulmfit_fast.kernels import lstm_cell

    x = torch.logspace(-30, 1.9, 2048, dtype=torch.float64).to(dtype)
    x = torch.cat([x, -x])
    found = torch.empty_like(x)
    _apply_kernel[(1,)](found, x, getattr(lstm_cell, f"_{name}"), len(x))
    exact = getattr(torch, name)(x.double())
    assert float(((found - exact) / exact).abs().max()) < FUNCTION_ERROR[dtype]


def test_triton_gate_functions_at_the_ends() -> None:
    from ulmfit_fast.kernels import lstm_cell

    x = torch.tensor([0.0, torch.inf, -torch.inf, torch.nan])
    for name in ("sigmoid", "tanh"):
        found = torch.empty_like(x)
        _apply_kernel[(1,)](found, x, getattr(lstm_cell, f"_{name}"), len(x))
        assert torch.equal(found[:3], getattr(torch, name)(x[:3]))
        assert bool(found[3].isnan())
