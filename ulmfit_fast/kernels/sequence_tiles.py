"""Triton kernels that drop features of a sequence: variational dropout, AR and TAR.

Sizes: T time steps, B batch rows, E embedding size. Arithmetic is in float32, or float64 beside
float64.

Mapping: a program takes BLOCK neighbouring elements of a step, counted i = b E + e, and RUN steps,
so that each block of Philox is drawn once for 4 elements and all its steps, and the jump from step
to step is formed from what is in registers. Where ROWS_DENSE, element i of a step lies at i;
otherwise b and e are found by one division a program. Only ROWS_DENSE, and which of B E and the
strides are multiples of 16, choose a compiled variant. Partial sums are added in their order: the
same bits on every run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ulmfit_fast.kernels.lstm_cell import _philox_words


@triton.jit
def _factor(first, seed_ptr, threshold, scale_bits, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    # 0 for a dropped element, else the scale; first is a multiple of 4.
    block = first // 4 + tl.arange(0, BLOCK // 4)
    w0, w1, w2, w3 = _philox_words(block, tl.load(seed_ptr))
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))  # w0, w1, w2, w3 of each
    keep = words >= threshold.to(tl.uint32, bitcast=True)
    return keep, scale_bits.to(tl.float64, bitcast=True).to(WIDE)


@triton.jit
def _places(first, n, E, stride_b, stride_e, ROWS_DENSE: tl.constexpr, BLOCK: tl.constexpr):
    i = first + tl.arange(0, BLOCK)
    if ROWS_DENSE:
        places = i
    else:
        inside = tl.minimum(i, n - 1)
        places = inside // E * stride_b + inside % E * stride_e
    return places


@triton.jit(do_not_specialize=["T", "E", "stride_b", "stride_e", "threshold", "scale_bits"])
def _variational_dropout_kernel(
    out_ptr,
    x_ptr,
    seed_ptr,
    T,
    n,
    E,
    stride_t,
    stride_b,
    stride_e,
    threshold,
    scale_bits,
    WIDE: tl.constexpr,
    ROWS_DENSE: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write out = keep * x * scale, out [T, n] and n = B E; x of any strides."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    keep, scale = _factor(first, seed_ptr, threshold, scale_bits, WIDE, BLOCK)
    offs = first + tl.arange(0, BLOCK)
    places = _places(first, n, E, stride_b, stride_e, ROWS_DENSE, BLOCK)
    mask = offs < n
    begin = tl.program_id(1).to(tl.int64) * RUN
    for t in range(begin, tl.minimum(begin + RUN, T)):
        x = tl.load(x_ptr + t * stride_t + places, mask=mask, other=0.0).to(WIDE)
        dropped = tl.where(keep, x * scale, 0.0)
        tl.store(out_ptr + t * n + offs, dropped.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["T", "E", "stride_b", "stride_e", "threshold", "scale_bits"])
def _regularize_kernel(
    dropped_ptr,
    sums_ptr,
    x_ptr,
    seed_ptr,
    T,
    n,
    E,
    stride_t,
    stride_b,
    stride_e,
    threshold,
    scale_bits,
    ROWS_DENSE: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write dropped [T, n] (or None, as seed) and this program's sums of squares.

    sums [2, programs]: of dropped, and of x[t] - x[t - 1] for the program's steps t > 0.
    """
    wide = sums_ptr.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * BLOCK
    offs = first + tl.arange(0, BLOCK)
    places = _places(first, n, E, stride_b, stride_e, ROWS_DENSE, BLOCK)
    mask = offs < n
    if seed_ptr is not None:
        keep, scale = _factor(first, seed_ptr, threshold, scale_bits, wide, BLOCK)
    begin = tl.program_id(1).to(tl.int64) * RUN
    before_ptr = x_ptr + tl.maximum(begin - 1, 0) * stride_t + places
    before = tl.load(before_ptr, mask=mask, other=0.0).to(wide)
    squares, jumps = tl.zeros((BLOCK,), wide), tl.zeros((BLOCK,), wide)
    for t in range(begin, tl.minimum(begin + RUN, T)):
        x = tl.load(x_ptr + t * stride_t + places, mask=mask, other=0.0).to(wide)
        jump = x - before
        jumps += jump * jump
        before = x
        if seed_ptr is not None:
            dropped = tl.where(keep, x * scale, 0.0).to(x_ptr.dtype.element_ty)
            tl.store(dropped_ptr + t * n + offs, dropped, mask=mask)
            x = dropped.to(wide)
        squares += x * x
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    n_programs = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    tl.store(sums_ptr + program, tl.sum(squares))
    tl.store(sums_ptr + n_programs + program, tl.sum(jumps))


@triton.jit(do_not_specialize=["n_programs", "alpha_bits", "beta_bits"])
def _penalty_kernel(penalty_ptr, sums_ptr, n_programs, alpha_bits, beta_bits, BLOCK: tl.constexpr):
    """Write alpha times the sum of sums[0] plus beta times that of sums[1]; one program."""
    offs = tl.arange(0, BLOCK)
    squares, jumps = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for first in range(0, n_programs, BLOCK):
        mask = first + offs < n_programs
        squares += tl.load(sums_ptr + first + offs, mask=mask, other=0.0).to(tl.float64)
        at = n_programs + first + offs
        jumps += tl.load(sums_ptr + at, mask=mask, other=0.0).to(tl.float64)
    penalty = alpha_bits.to(tl.float64, bitcast=True) * tl.sum(squares) + beta_bits.to(
        tl.float64, bitcast=True
    ) * tl.sum(jumps)
    tl.store(penalty_ptr, penalty.to(penalty_ptr.dtype.element_ty))


@triton.jit(
    do_not_specialize=[
        *("T", "E", "stride_b", "stride_e", "threshold", "scale_bits"),
        *("alpha_bits", "beta_bits"),
    ]
)
def _regularize_backward_kernel(
    dx_ptr,
    d_dropped_ptr,
    d_penalty_ptr,
    x_ptr,
    seed_ptr,
    T,
    n,
    E,
    stride_t,
    stride_b,
    stride_e,
    threshold,
    scale_bits,
    alpha_bits,
    beta_bits,
    ROWS_DENSE: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient of x.

        dx[t] = m (alpha m x[t] + d_dropped[t]) + beta ((x[t] - x[t - 1]) - (x[t + 1] - x[t]))

    m is the mask with its scale; m x is rounded as dropped was. dx and d_dropped [T, n] (None as
    seed, then m is 1); alpha and beta, the bits of float64, hold the 2 of the square and the
    numbers of elements, and are multiplied by d_penalty, a scalar of the dtype of sums. At the
    ends a jump is 0.
    """
    wide = d_penalty_ptr.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * BLOCK
    offs = first + tl.arange(0, BLOCK)
    places = _places(first, n, E, stride_b, stride_e, ROWS_DENSE, BLOCK)
    mask = offs < n
    if seed_ptr is not None:
        keep, scale = _factor(first, seed_ptr, threshold, scale_bits, wide, BLOCK)
    d_penalty = tl.load(d_penalty_ptr).to(tl.float64)
    alpha = (alpha_bits.to(tl.float64, bitcast=True) * d_penalty).to(wide)
    beta = (beta_bits.to(tl.float64, bitcast=True) * d_penalty).to(wide)
    begin = tl.program_id(1).to(tl.int64) * RUN
    x_ptrs = x_ptr + places
    before_ptrs = x_ptrs + tl.maximum(begin - 1, 0) * stride_t
    before = tl.load(before_ptrs, mask=mask, other=0.0).to(wide)
    x = tl.load(x_ptrs + begin * stride_t, mask=mask, other=0.0).to(wide)
    for t in range(begin, tl.minimum(begin + RUN, T)):
        after_ptrs = x_ptrs + tl.minimum(t + 1, T - 1) * stride_t
        after = tl.load(after_ptrs, mask=mask, other=0.0).to(wide)
        if seed_ptr is None:
            dx = alpha * x
        else:
            dropped = tl.where(keep, x * scale, 0.0).to(x_ptr.dtype.element_ty).to(wide)
            d_dropped = tl.load(d_dropped_ptr + t * n + offs, mask=mask, other=0.0).to(wide)
            dx = tl.where(keep, (alpha * dropped + d_dropped) * scale, 0.0)
        dx += beta * (x - before) - beta * (after - x)
        tl.store(dx_ptr + t * n + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        before = x
        x = after
