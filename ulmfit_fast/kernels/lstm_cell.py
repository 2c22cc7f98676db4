"""Triton kernels of the weight-dropped LSTM: the mask and one time step, forward and backward.

Sizes: T time steps, B batch rows, H hidden units; gates i, f, g, o. Arithmetic is in the dtype of
the cell state: float32, or float64 beside float64.

Mapping: one program takes BLOCK_H neighbouring units of one batch row with all their gates, so
that every access is contiguous. T, B and the step never choose a compiled variant; H does, because
rows that are a multiple of 16 elements long load 16 bytes at a time. Nothing is accumulated over
programs: the same bits on every run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    # exp of a negative number only: no overflow for any x.
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def _tanh(x):
    # 1 - 2 / (exp(2 |x|) + 1) loses leading digits near 0; there a rational function keeps them.
    # Source: Cephes tanh.c (S. L. Moshier), relative error below 2e-16 for |x| < 0.625.
    s = x * x
    p = (-9.64399179425052238628e-1 * s - 9.92877231001918586564e1) * s - 1.61468768441708447952e3
    q = ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s
    near = x + x * s * (p / (q + 4.84406305325125486048e3))
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def _load_gates(ptr, H, mask, WIDE: tl.constexpr):
    i, f = tl.load(ptr, mask=mask), tl.load(ptr + H, mask=mask)
    g, o = tl.load(ptr + 2 * H, mask=mask), tl.load(ptr + 3 * H, mask=mask)
    return i.to(WIDE), f.to(WIDE), g.to(WIDE), o.to(WIDE)


@triton.jit
def _store_gates(ptr, i, f, g, o, H, mask):
    dtype = ptr.dtype.element_ty
    tl.store(ptr, i.to(dtype), mask=mask)
    tl.store(ptr + H, f.to(dtype), mask=mask)
    tl.store(ptr + 2 * H, g.to(dtype), mask=mask)
    tl.store(ptr + 3 * H, o.to(dtype), mask=mask)


@triton.jit
def _philox_words(block, seed):
    # Words 0..3 of an int64 block's counter under an int64 seed's key, as in reference/masks.py.
    low, high = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    return tl.philox(seed, low, high, zero, zero, 10)


@triton.jit(do_not_specialize=["threshold", "scale_bits"])
def _drop_kernel(
    out_ptr,
    weight_ptr,
    seed_ptr,
    n,
    threshold,
    scale_bits,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write out = keep * weight * scale for the mask of reference/masks.py.

    out and weight [n] may differ in dtype; the product is rounded once, from WIDE. A program draws
    BLOCK blocks of Philox, each of which decides on 4 elements. threshold holds the bits of a
    uint32, scale_bits those of a float64: a float argument would be rounded to float32.
    """
    block = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    w0, w1, w2, w3 = _philox_words(block, tl.load(seed_ptr))
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))  # w0, w1, w2, w3 of each
    keep = words >= threshold.to(tl.uint32, bitcast=True)
    offs = tl.program_id(0).to(tl.int64) * (4 * BLOCK) + tl.arange(0, 4 * BLOCK)
    mask = offs < n
    weight = tl.load(weight_ptr + offs, mask=mask, other=0.0).to(WIDE)
    dropped = tl.where(keep, weight * scale_bits.to(tl.float64, bitcast=True).to(WIDE), 0.0)
    tl.store(out_ptr + offs, dropped.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["slot", "step", "B"])
def _lstm_forward_kernel(
    gates_ptr,
    y_ptr,
    c_ptr,
    h_state_ptr,
    c_state_ptr,
    sums_ptr,
    lengths_ptr,
    slot,
    step,
    B,
    H,
    BLOCK_H: tl.constexpr,
):
    """Take one step.

        a = gates[slot] + sums,  c = f c + i g,  h = o tanh(c)

    gates [slots, B, 4H] holds x W_ih^T + bias, and the activated gates afterwards; y [T, B, H] gets
    h, c [T, B, H] (or None) and c_state [B, H] get c, h_state [B, H] gets h; sums [B, 4H] is
    h_state W_hh^T. Rows whose length (lengths [B] or None) is reached keep their state and get
    y = 0, gates = 0.
    """
    b = tl.program_id(0).to(tl.int64)
    offs_h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask = offs_h < H
    wide = c_state_ptr.dtype.element_ty
    state = b * H + offs_h
    at_step = (step.to(tl.int64) * B + b) * H + offs_h
    gate = gates_ptr + (slot.to(tl.int64) * B + b) * H * 4 + offs_h
    x_i, x_f, x_g, x_o = _load_gates(gate, H, mask, wide)
    h_i, h_f, h_g, h_o = _load_gates(sums_ptr + b * H * 4 + offs_h, H, mask, wide)
    i, f, g, o = _sigmoid(x_i + h_i), _sigmoid(x_f + h_f), _tanh(x_g + h_g), _sigmoid(x_o + h_o)
    c_before = tl.load(c_state_ptr + state, mask=mask)
    c = f * c_before + i * g
    h = (o * _tanh(c)).to(y_ptr.dtype.element_ty)
    if lengths_ptr is None:
        tl.store(h_state_ptr + state, h, mask=mask)
    else:
        runs = step < tl.load(lengths_ptr + b)
        tl.store(h_state_ptr + state, h, mask=mask & runs)
        i, f = tl.where(runs, i, 0.0), tl.where(runs, f, 0.0)
        g, o = tl.where(runs, g, 0.0), tl.where(runs, o, 0.0)
        c = tl.where(runs, c, c_before)
        h = tl.where(runs, h, tl.zeros_like(h))
    tl.store(c_state_ptr + state, c, mask=mask)
    if c_ptr is not None:
        tl.store(c_ptr + at_step, c, mask=mask)
    tl.store(y_ptr + at_step, h, mask=mask)
    _store_gates(gate, i, f, g, o, H, mask)


@triton.jit(do_not_specialize=["slot", "step", "step_before", "B"])
def _lstm_backward_kernel(
    dgates_ptr,
    dh_held_ptr,
    dc_ptr,
    dh_ptr,
    dy_ptr,
    gates_ptr,
    c_ptr,
    c_before_ptr,
    lengths_ptr,
    slot,
    step,
    step_before,
    B,
    H,
    BLOCK_H: tl.constexpr,
):
    """Take one step back.

        dh' = dh + dy,  dc' = dc + dh' o (1 - tanh(c)^2),  dgates from dh' and dc',  dc = dc' f

    dh [B, H] is what the step after this one gave (dgates W_hh of that step), dc [B, H] is updated
    in place. dgates [slots, B, 4H] is written at slot; dy [T, B, H], gates [T, B, 4H] and
    c [T, B, H] are read at step, c_before [.., B, H] at step_before. Rows whose length is reached
    get dgates = 0, so that the next dh is 0 for them; what they had waits in dh_held [B, H] (None
    where lengths is).
    """
    b = tl.program_id(0).to(tl.int64)
    offs_h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask = offs_h < H
    wide = dc_ptr.dtype.element_ty
    state = b * H + offs_h
    at_step = (step.to(tl.int64) * B + b) * H + offs_h
    before = (step_before.to(tl.int64) * B + b) * H + offs_h
    gate = gates_ptr + (step.to(tl.int64) * B + b) * H * 4 + offs_h
    dgate = dgates_ptr + (slot.to(tl.int64) * B + b) * H * 4 + offs_h
    i, f, g, o = _load_gates(gate, H, mask, wide)
    tanh_c = _tanh(tl.load(c_ptr + at_step, mask=mask))
    c_before = tl.load(c_before_ptr + before, mask=mask)
    dc_after = tl.load(dc_ptr + state, mask=mask)
    dh = tl.load(dh_ptr + state, mask=mask)
    if lengths_ptr is not None:
        dh += tl.load(dh_held_ptr + state, mask=mask)
    dh_y = dh + tl.load(dy_ptr + at_step, mask=mask).to(wide)
    dc = dc_after + dh_y * o * (1.0 - tanh_c * tanh_c)
    da_i = dc * g * i * (1.0 - i)
    da_f = dc * c_before * f * (1.0 - f)
    da_g = dc * i * (1.0 - g * g)
    da_o = dh_y * tanh_c * o * (1.0 - o)
    dc = dc * f
    if lengths_ptr is not None:
        runs = step < tl.load(lengths_ptr + b)
        da_i, da_f = tl.where(runs, da_i, 0.0), tl.where(runs, da_f, 0.0)
        da_g, da_o = tl.where(runs, da_g, 0.0), tl.where(runs, da_o, 0.0)
        dc = tl.where(runs, dc, dc_after)
        tl.store(dh_held_ptr + state, tl.where(runs, 0.0, dh), mask=mask)
    tl.store(dc_ptr + state, dc, mask=mask)
    _store_gates(dgate, da_i, da_f, da_g, da_o, H, mask)
