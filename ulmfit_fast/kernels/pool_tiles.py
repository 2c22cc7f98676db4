"""Triton kernels of concat_pool: last, largest and mean vector over valid positions, and back.

Sizes: B batch rows, T positions, E embedding size. Arithmetic is in float32, or float64 beside
float64.

Mapping: a program takes BLOCK_E features of one row and goes through its valid positions BLOCK_T at
a time; each lane of the tile keeps its own largest number, first position of it, and sum, which are
combined once at the end. Positions outside of 0..T are never read: where start < end does not hold
within them, the results are NaN. The order of all sums is fixed: the same bits on every run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _store(ptr, values, mask):
    tl.store(ptr, values.to(ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["T"])
def _concat_pool_kernel(
    pooled_ptr,
    argmax_ptr,
    output_ptr,
    start_ptr,
    end_ptr,
    T,
    E,
    stride_b,
    stride_t,
    stride_e,
    WIDE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write pooled [B, 3E] and argmax [B, E] int64; output [B, T, E] of any strides.

    NaN is larger than every number, the first one of several is the largest.
    """
    b = tl.program_id(0).to(tl.int64)
    offs_t, offs_e = tl.arange(0, BLOCK_T), tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask_e = offs_e < E
    start = tl.maximum(tl.load(start_ptr + b), 0)
    end = tl.minimum(tl.load(end_ptr + b), T)
    ptrs = output_ptr + b * stride_b + offs_e.to(tl.int64) * stride_e
    largest = tl.full((BLOCK_T, BLOCK_E), float("-inf"), WIDE)
    place = tl.full((BLOCK_T, BLOCK_E), 2**62, tl.int64)
    total = tl.zeros((BLOCK_T, BLOCK_E), WIDE)
    for first in range(start, end, BLOCK_T):
        t = tl.cast(first, tl.int64) + offs_t
        inside = (t < end)[:, None] & mask_e[None, :]
        x = tl.load(ptrs[None, :] + t[:, None] * stride_t, mask=inside, other=0.0).to(WIDE)
        total += x
        is_new = place == 2**62
        is_larger = (x > largest) | ((x != x) & (largest == largest)) | is_new
        takes = inside & is_larger
        largest = tl.where(takes, x, largest)
        place = tl.where(takes, t[:, None], place)
    is_nan = largest != largest
    has_nan = tl.max(is_nan.to(tl.int32), axis=0) > 0
    top = tl.max(tl.where(is_nan, float("-inf"), largest), axis=0)
    candidate = tl.where(has_nan[None, :], is_nan, largest == top[None, :])
    argmax = tl.min(tl.where(candidate, place, 2**62), axis=0)
    n = end - start
    nothing = n <= 0
    top = tl.where(has_nan | nothing, float("nan"), top)
    argmax = tl.where(argmax == 2**62, 0, argmax)
    last_ptrs = ptrs + tl.maximum(end - 1, 0) * stride_t
    last = tl.load(last_ptrs, mask=mask_e & (n > 0), other=float("nan"))
    mean = tl.where(nothing, float("nan"), tl.sum(total, axis=0) / n.to(WIDE))
    row_ptr = pooled_ptr + b * 3 * E + offs_e
    tl.store(row_ptr, last, mask=mask_e)
    _store(row_ptr + E, top, mask_e)
    _store(row_ptr + 2 * E, mean, mask_e)
    tl.store(argmax_ptr + b * E + offs_e, argmax, mask=mask_e)


@triton.jit(do_not_specialize=["T"])
def _concat_pool_backward_kernel(
    d_output_ptr,
    grad_ptr,
    argmax_ptr,
    start_ptr,
    end_ptr,
    T,
    E,
    WIDE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write d_output [B, T, E], every element of it; grad [B, 3E], argmax [B, E]."""
    b = tl.program_id(0).to(tl.int64)
    offs_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    t = tl.program_id(2).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    mask_e = offs_e < E
    start, end = tl.load(start_ptr + b), tl.load(end_ptr + b)
    row_ptr = grad_ptr + b * 3 * E + offs_e
    d_last = tl.load(row_ptr, mask=mask_e, other=0.0).to(WIDE)
    d_largest = tl.load(row_ptr + E, mask=mask_e, other=0.0).to(WIDE)
    d_mean = tl.load(row_ptr + 2 * E, mask=mask_e, other=0.0).to(WIDE) / (end - start).to(WIDE)
    argmax = tl.load(argmax_ptr + b * E + offs_e, mask=mask_e, other=-1)
    valid = (t >= start) & (t < end)
    d_output = tl.where(valid[:, None], d_mean[None, :], 0.0)
    d_output += tl.where((t == end - 1)[:, None], d_last[None, :], 0.0)
    d_output += tl.where(t[:, None] == argmax[None, :], d_largest[None, :], 0.0)
    at = (b * T + t)[:, None] * E + offs_e[None, :]
    _store(d_output_ptr + at, d_output, (t < T)[:, None] & mask_e[None, :])
