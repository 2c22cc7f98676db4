"""Triton kernels of the optimizer's step: the norm of all gradients, and the update.

Work is cut into tiles of TILE elements of one tensor; a program takes one, LINE elements at a time.
The table has a row of ROW int64 numbers for each tensor (columns below: addresses, sizes), and a
last one with the bits of max_grad_norm and average_weight as float64. Squares, sums and factors are
float64, the update float32. A tile's sum and the sum over tiles have fixed orders: the same bits on
every run. Tiles that are full go without masks, so that aligned ones move 16 bytes at a time. The
formula, and why it is written this way: csrc/adamw.h.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Columns of a tensor's row.
PARAM, GRAD, EXP_AVG, EXP_AVG_SQ = (
    tl.constexpr(0),
    tl.constexpr(1),
    tl.constexpr(2),
    tl.constexpr(3),
)
STEP, SHADOW, AVERAGE, N_AVERAGED = (
    tl.constexpr(4),
    tl.constexpr(5),
    tl.constexpr(6),
    tl.constexpr(7),
)
SIZE, FIRST_TILE, LAYER, ROW = tl.constexpr(8), tl.constexpr(9), tl.constexpr(10), tl.constexpr(11)
#: Columns of the last row.
MAX_GRAD_NORM, AVERAGE_WEIGHT = tl.constexpr(0), tl.constexpr(1)


@triton.jit
def _row_of_tile(table_ptr, tile, n_tensors, TENSORS: tl.constexpr):
    # The last tensor that begins at this tile or before it; tensors without elements begin where
    # the next one does.
    offs = tl.arange(0, TENSORS)
    firsts = tl.load(table_ptr + offs * ROW + FIRST_TILE, mask=offs < n_tensors, other=2**62)
    index = tl.sum((firsts <= tile).to(tl.int32)) - 1
    return table_ptr + index * ROW


@triton.jit
def _pointer(row_ptr, COLUMN: tl.constexpr, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(row_ptr + COLUMN).to(tl.pointer_type(dtype))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _inverse_scale(grad_scale_ptr):
    if grad_scale_ptr is None:
        inverse = tl.full((), 1.0, tl.float64)
    else:
        inverse = 1.0 / tl.load(grad_scale_ptr).to(tl.float64)
    return inverse


@triton.jit
def _arrives_last(ticket_ptr, n_programs):
    # The barrier: what the other threads of this program read and wrote comes before the count.
    tl.debug_barrier()
    last = tl.atomic_add(ticket_ptr, 1, sem="acq_rel") == n_programs - 1
    if last:
        tl.atomic_xchg(ticket_ptr, 0)
    return last


@triton.jit
def _load(pointer, offs, size, WHOLE: tl.constexpr):
    if WHOLE:
        values = tl.load(pointer + offs)
    else:
        values = tl.load(pointer + offs, mask=offs < size, other=0.0)
    return values


@triton.jit
def _store(pointer, offs, size, values, WHOLE: tl.constexpr):
    if WHOLE:
        tl.store(pointer + offs, values)
    else:
        tl.store(pointer + offs, values, mask=offs < size)


@triton.jit
def _squares(grad_ptr, first, size, TILE: tl.constexpr, LINE: tl.constexpr, WHOLE: tl.constexpr):
    sums = tl.zeros((LINE,), tl.float64)
    for line in range(0, TILE, LINE):
        offs = first + line + tl.arange(0, LINE)
        grad = _load(grad_ptr, offs, size, WHOLE).to(tl.float64)
        sums += grad * grad
    return tl.sum(sums)


@triton.jit(do_not_specialize=["n_tensors", "n_tiles"])
def _adamw_norm_kernel(
    sums_ptr,
    norm_ptr,
    ticket_ptr,
    table_ptr,
    grad_scale_ptr,
    n_tensors,
    n_tiles,
    TENSORS: tl.constexpr,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Write the norm of the unscaled gradients to norm, the sum of all squares to sums[n_tiles].

    sums [n_tiles + 1] float64; the program that arrives last adds the tiles' sums.
    """
    tile = tl.program_id(0)
    row_ptr = _row_of_tile(table_ptr, tile, n_tensors, TENSORS)
    first, size = (tile - tl.load(row_ptr + FIRST_TILE)) * TILE, tl.load(row_ptr + SIZE)
    grad_ptr = _pointer(row_ptr, GRAD, tl.float32, ALIGNED)
    if first + TILE <= size:
        tl.store(sums_ptr + tile, _squares(grad_ptr, first, size, TILE, LINE, True))
    else:
        tl.store(sums_ptr + tile, _squares(grad_ptr, first, size, TILE, LINE, False))
    if _arrives_last(ticket_ptr, tl.num_programs(0)):
        sums = tl.zeros((LINE,), tl.float64)
        begin = 0
        while begin < n_tiles:
            at = begin + tl.arange(0, LINE)
            sums += tl.load(sums_ptr + at, mask=at < n_tiles, other=0.0, cache_modifier=".cg")
            begin += LINE
        total = tl.sum(sums)
        tl.store(sums_ptr + n_tiles, total)
        tl.store(norm_ptr, (tl.sqrt(total) * _inverse_scale(grad_scale_ptr)).to(tl.float32))


@triton.jit
def _scale_and_skip(
    sums_ptr,
    scalars_ptr,
    grad_scale_ptr,
    found_inf_ptr,
    n_tiles,
    MEASURE: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
):
    # What the gradients are multiplied by, and whether the step does nothing.
    scale = _inverse_scale(grad_scale_ptr)
    skip = tl.full((), 0, tl.int1)
    if found_inf_ptr is not None:
        skip = tl.load(found_inf_ptr) != 0
    if MEASURE:
        norm = tl.sqrt(tl.load(sums_ptr + n_tiles)) * scale
        most = tl.load(scalars_ptr + MAX_GRAD_NORM).to(tl.float64, bitcast=True)
        clip = most / (norm + 1e-6)
        scale *= tl.where(clip >= 1.0, 1.0, clip)
        if SKIP_NONFINITE:
            skip = skip | (norm - norm != 0)
    return scale.to(tl.float32), skip


@triton.jit
def _power(base, t):
    return tl.exp(t * tl.log(tl.maximum(base, 1e-300)))


@triton.jit
def _factors(row_ptr, layers_ptr):
    # As csrc/adamw.h: weight1, weight2, step_size, eps, decay.
    layer_ptr = layers_ptr + tl.load(row_ptr + LAYER) * 5
    lr, decay = tl.load(layer_ptr), tl.load(layer_ptr + 1)
    beta1, beta2, eps = tl.load(layer_ptr + 2), tl.load(layer_ptr + 3), tl.load(layer_ptr + 4)
    t = tl.load(_pointer(row_ptr, STEP, tl.float32, False)).to(tl.float64) + 1.0
    root = tl.sqrt(1.0 - _power(beta2, t))
    step_size = (lr * root / (1.0 - _power(beta1, t))).to(tl.float32)
    weight1, weight2 = (1.0 - beta1).to(tl.float32), (1.0 - beta2).to(tl.float32)
    return weight1, weight2, step_size, (eps * root).to(tl.float32), (lr * decay).to(tl.float32)


@triton.jit
def _average_weight(row_ptr, scalars_ptr):
    # Of the parameter in the average; 1 replaces it.
    n_averaged = tl.load(_pointer(row_ptr, N_AVERAGED, tl.float32, False)).to(tl.float64) + 1.0
    newest = tl.load(scalars_ptr + AVERAGE_WEIGHT).to(tl.float64, bitcast=True)
    weight = tl.where(newest == 0.0, 1.0 / n_averaged, newest)
    return tl.where(n_averaged == 1.0, 1.0, weight).to(tl.float32)


@triton.jit
def _update_tile(
    row_ptr,
    layers_ptr,
    scalars_ptr,
    first,
    size,
    scale,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    ALIGNED: tl.constexpr,
    WHOLE: tl.constexpr,
    HAS_SHADOW: tl.constexpr,
    HAS_AVERAGE: tl.constexpr,
):
    weight1, weight2, step_size, eps, decay = _factors(row_ptr, layers_ptr)
    if HAS_AVERAGE:
        weight = _average_weight(row_ptr, scalars_ptr)
        average_ptr = _pointer(row_ptr, AVERAGE, tl.float32, ALIGNED)
    if HAS_SHADOW:
        shadow_ptr = _pointer(row_ptr, SHADOW, tl.bfloat16, ALIGNED)
    param_ptr = _pointer(row_ptr, PARAM, tl.float32, ALIGNED)
    grad_ptr = _pointer(row_ptr, GRAD, tl.float32, ALIGNED)
    m_ptr = _pointer(row_ptr, EXP_AVG, tl.float32, ALIGNED)
    v_ptr = _pointer(row_ptr, EXP_AVG_SQ, tl.float32, ALIGNED)
    for line in range(0, TILE, LINE):
        offs = first + line + tl.arange(0, LINE)
        g = _load(grad_ptr, offs, size, WHOLE) * scale
        p, m = _load(param_ptr, offs, size, WHOLE), _load(m_ptr, offs, size, WHOLE)
        v = _load(v_ptr, offs, size, WHOLE)
        m = (m - weight1 * m) + weight1 * g
        v = (v - weight2 * v) + (weight2 * g) * g
        root = tl.sqrt_rn(v) + eps
        if not WHOLE:  # 0 / 0 is NaN where eps is 0; nothing of it is stored
            root = tl.where(offs < size, root, 1.0)
        p = p - (decay * p + step_size * tl.div_rn(m, root))
        _store(param_ptr, offs, size, p, WHOLE)
        _store(m_ptr, offs, size, m, WHOLE)
        _store(v_ptr, offs, size, v, WHOLE)
        if HAS_SHADOW:
            _store(shadow_ptr, offs, size, p.to(tl.bfloat16), WHOLE)
        if HAS_AVERAGE:
            a = _load(average_ptr, offs, size, WHOLE)
            a = tl.where(weight == 1.0, p, a + weight * (p - a))
            _store(average_ptr, offs, size, a, WHOLE)


@triton.jit(do_not_specialize=["n_tensors", "n_tiles"])
def _adamw_update_kernel(
    skipped_ptr,
    ticket_ptr,
    sums_ptr,
    table_ptr,
    layers_ptr,
    grad_scale_ptr,
    found_inf_ptr,
    n_tensors,
    n_tiles,
    TENSORS: tl.constexpr,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    ALIGNED: tl.constexpr,
    MEASURE: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
    HAS_SHADOW: tl.constexpr,
    HAS_AVERAGE: tl.constexpr,
):
    """Update a tile; the program that arrives last counts the step, or that it was skipped.

    sums [n_tiles + 1] as _adamw_norm_kernel left it, None without MEASURE; layers [L, 5] float64:
    lr, weight_decay, beta1, beta2, eps.
    """
    tile = tl.program_id(0)
    row_ptr = _row_of_tile(table_ptr, tile, n_tensors, TENSORS)
    scalars_ptr = table_ptr + n_tensors * ROW
    scale, skip = _scale_and_skip(
        sums_ptr, scalars_ptr, grad_scale_ptr, found_inf_ptr, n_tiles, MEASURE, SKIP_NONFINITE
    )
    first, size = (tile - tl.load(row_ptr + FIRST_TILE)) * TILE, tl.load(row_ptr + SIZE)
    if not skip:
        if first + TILE <= size:
            _update_tile(
                row_ptr, layers_ptr, scalars_ptr, first, size, scale, TILE, LINE, ALIGNED, True,
                HAS_SHADOW, HAS_AVERAGE,
            )  # fmt: skip
        else:
            _update_tile(
                row_ptr, layers_ptr, scalars_ptr, first, size, scale, TILE, LINE, ALIGNED, False,
                HAS_SHADOW, HAS_AVERAGE,
            )  # fmt: skip
    if _arrives_last(ticket_ptr, tl.num_programs(0)):
        if skip:
            tl.store(skipped_ptr, tl.load(skipped_ptr) + 1)
        else:
            tensors = tl.arange(0, TENSORS)
            rows_ptr = table_ptr + tensors * ROW
            _count(rows_ptr + STEP, tensors < n_tensors)
            if HAS_AVERAGE:
                _count(rows_ptr + N_AVERAGED, tensors < n_tensors)


@triton.jit
def _count(addresses_ptr, mask):
    counter_ptr = tl.load(addresses_ptr, mask=mask, other=0).to(tl.pointer_type(tl.float32))
    tl.store(counter_ptr, tl.load(counter_ptr, mask=mask, other=0.0) + 1.0, mask=mask)
