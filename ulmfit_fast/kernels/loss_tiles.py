"""Triton kernels of linear_cross_entropy: tiles of logits that are never written as a whole.

Sizes: N tokens, E embedding size, V vocabulary. z = hidden weight^T + bias. Arithmetic on logits is
in the dtype of lse: float32, or float64 beside float64.

Two ways to a tile of z, one kernel for both. 16-bit operands are multiplied here (tl.dot, float32
sums, no rounding of z); where logits_ptr is given, z without its bias was multiplied by cuBLAS and
is read: float32 and float64.

Mapping: a program of _lse_kernel takes BLOCK_M rows and one split of the vocabulary, of SPLIT
columns, BLOCK_N at a time; rows are the fast axis of the grid, so that the programs that run at one
time read the same 1.6 MB of weight from L2. A program of _dz_kernel takes BLOCK_N columns and
TILES neighbouring tiles of rows; its column sums are partial sums of the bias's gradient. Nothing
is accumulated over programs except by a kernel that adds partial results in their order: the same
bits on every run. A target outside 0..V-1 is compared with, never used as an index.

Roofline of the forward pass at N 4480, E 400, V 60,000, 16 bits (predictions, not yet measured):
2 N E V = 215 GFLOP are 0.22 ms at 989 TFLOP/s; the tiles of 128 x 128 read 3.4 GB from L2, 0.6 ms
at 5.5 TB/s, and 48 MB from memory, 0.02 ms. So L2 is the limit, then exp: 269 M of 16 a clock on
132 multiprocessors, 0.07 ms, beside the products of the second program of a multiprocessor. The
backward pass: linear_cross_entropy.py.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _logits_tile(
    logits_ptr,
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    row,
    column,
    N,
    columns,
    E,
    stride,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Rows beyond N and columns beyond the slab repeat the last one: a finite number to mask later.
    offs_m = tl.minimum(tl.arange(0, BLOCK_M), tl.cast(N - 1 - row, tl.int32))
    offs_n = tl.minimum(tl.arange(0, BLOCK_N), columns - 1 - column)
    if logits_ptr is None:
        offs_k = tl.arange(0, BLOCK_K)
        x_ptrs = hidden_ptr + tl.cast(row, tl.int64) * E + (offs_m[:, None] * E + offs_k[None, :])
        w_ptrs = (
            weight_ptr + tl.cast(column, tl.int64) * E + (offs_n[None, :] * E + offs_k[:, None])
        )
        z = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, E, BLOCK_K):
            x = tl.load(x_ptrs, mask=offs_k[None, :] < E - k, other=0.0)
            w = tl.load(w_ptrs, mask=offs_k[:, None] < E - k, other=0.0)
            z = tl.dot(x, w, z)
            x_ptrs += BLOCK_K
            w_ptrs += BLOCK_K
    else:
        tile_ptr = logits_ptr + tl.cast(row, tl.int64) * stride + column
        z = tl.load(tile_ptr + (offs_m[:, None] * stride + offs_n[None, :])).to(WIDE)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + column + offs_n).to(WIDE)[None, :]
    return z


@triton.jit
def _finite_base(m):
    # What to subtract before exp; exp(-inf - 0) is 0 where exp(-inf - -inf) would be NaN.
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit(do_not_specialize=["N", "columns", "first_split"])
def _lse_kernel(
    max_ptr,
    sum_ptr,
    total_ptr,
    logits_ptr,
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    N,
    columns,
    E,
    stride,
    first_split,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Write the largest z, the sum of exp(z - largest) and the sum of z of each row of a split.

    max, sum and total [splits, N] (total None where it is not wanted), at first_split and after it;
    hidden [N, E], and weight [columns, E], bias [columns] (or None) and logits [N, columns] (or
    None, rows stride apart) of one slab of the vocabulary.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M
    wide = max_ptr.dtype.element_ty
    first = tl.program_id(1) * SPLIT
    m = tl.full((BLOCK_M,), float("-inf"), wide)
    s, total = tl.zeros((BLOCK_M,), wide), tl.zeros((BLOCK_M,), wide)
    for column in range(first, tl.minimum(first + SPLIT, columns), BLOCK_N):
        z = _logits_tile(
            logits_ptr, hidden_ptr, weight_ptr, bias_ptr, row, column, N, columns, E, stride,
            wide, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        inside = (column + tl.arange(0, BLOCK_N) < columns)[None, :]
        if total_ptr is not None:
            total += tl.sum(tl.where(inside, z, 0.0), axis=1)
        z = tl.where(inside, z, float("-inf"))
        largest = tl.maximum(m, tl.max(z, axis=1))
        base = _finite_base(largest)
        s = s * tl.exp(m - base) + tl.sum(tl.exp(z - base[:, None]), axis=1)
        m = largest
    rows = row + tl.arange(0, BLOCK_M)
    at = (first_split + tl.program_id(1)).to(tl.int64) * N + rows
    tl.store(max_ptr + at, m, mask=rows < N)
    tl.store(sum_ptr + at, s, mask=rows < N)
    if total_ptr is not None:
        tl.store(total_ptr + at, total, mask=rows < N)


@triton.jit
def _target_logit(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    rows,
    place,
    mask,
    E,
    weight_stride_v,
    weight_stride_e,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # z at place of each row; the weight is rounded to hidden's dtype.
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = hidden_ptr + rows[:, None] * E + offs_k[None, :]
    w_ptrs = weight_ptr + place[:, None] * weight_stride_v
    z = tl.zeros((BLOCK_M,), WIDE)
    for k in range(0, E, BLOCK_K):
        there = mask[:, None] & (offs_k[None, :] < E - k)
        x = tl.load(x_ptrs + k, mask=there, other=0.0)
        offs_e = (offs_k + k).to(tl.int64)[None, :] * weight_stride_e
        w = tl.load(w_ptrs + offs_e, mask=there, other=0.0).to(x.dtype)
        z += tl.sum(x.to(WIDE) * w.to(WIDE), axis=1)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + place).to(WIDE)
    return z


@triton.jit(do_not_specialize=["N", "V", "n_splits", "ignore_index", "smoothing_bits"])
def _combine_kernel(
    losses_ptr,
    lse_ptr,
    max_ptr,
    sum_ptr,
    total_ptr,
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    targets_ptr,
    N,
    V,
    E,
    weight_stride_v,
    weight_stride_e,
    n_splits,
    ignore_index,
    smoothing_bits,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write lse [N] and losses [N] from the splits' results.

        loss = lse - (1 - s) z[target] - s mean(z)

    0 where the target is ignore_index, NaN where it is no class. z[target] is one more product,
    with weight [V, E] of any strides rounded to hidden's dtype: 400 numbers a row, where picking it
    out of the tiles would be a comparison for every logit.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask = rows < N
    wide = lse_ptr.dtype.element_ty
    m = tl.full((BLOCK_M,), float("-inf"), wide)
    s, total = tl.zeros((BLOCK_M,), wide), tl.zeros((BLOCK_M,), wide)
    for split in range(n_splits):
        at = tl.cast(split, tl.int64) * N + rows
        m_split = tl.load(max_ptr + at, mask=mask, other=0.0)
        s_split = tl.load(sum_ptr + at, mask=mask, other=1.0)
        largest = tl.maximum(m, m_split)
        base = _finite_base(largest)
        s = s * tl.exp(m - base) + s_split * tl.exp(m_split - base)
        m = largest
        if total_ptr is not None:
            total += tl.load(total_ptr + at, mask=mask, other=0.0)
    lse = m + tl.log(s)
    target = tl.load(targets_ptr + rows, mask=mask, other=-1)
    is_class = (target >= 0) & (target < V)
    z = _target_logit(
        hidden_ptr, weight_ptr, bias_ptr, rows, tl.where(is_class, target, 0), mask, E,
        weight_stride_v, weight_stride_e, wide, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    smoothing = smoothing_bits.to(tl.float64, bitcast=True)
    loss = lse - (1.0 - smoothing).to(wide) * z
    if total_ptr is not None:
        loss -= (smoothing / V).to(wide) * total
    loss = tl.where(is_class, loss, float("nan"))
    tl.store(lse_ptr + rows, lse, mask=mask)
    tl.store(losses_ptr + rows, tl.where(target == ignore_index, 0.0, loss), mask=mask)


@triton.jit(do_not_specialize=["N", "ignore_index"])
def _total_kernel(
    loss_ptr, losses_ptr, targets_ptr, N, ignore_index, MEAN: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the sum of losses [N], or their mean over the rows that count; one program."""
    offs = tl.arange(0, BLOCK)
    sums, counts = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.int64)
    for first in range(0, N, BLOCK):
        mask = first + offs < N
        sums += tl.load(losses_ptr + first + offs, mask=mask, other=0.0).to(tl.float64)
        target = tl.load(targets_ptr + first + offs, mask=mask, other=ignore_index)
        counts += (target != ignore_index).to(tl.int64)
    loss = tl.sum(sums)
    if MEAN:  # 0 / 0 is NaN
        loss = loss / tl.sum(counts).to(tl.float64)
    tl.store(loss_ptr, loss.to(loss_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["N", "V", "grad_stride", "ignore_index"])
def _row_gradient_kernel(
    row_grad_ptr,
    grad_ptr,
    targets_ptr,
    N,
    V,
    grad_stride,
    ignore_index,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient of each row's loss; 0 where it is ignored, NaN where it is no class.

    row_grad [N]; grad is a scalar with grad_stride 0, or [N]. Every program counts the rows anew,
    which are 36 KB of L2 at N 4480: no other launch, and no atomic operation.
    """
    offs = tl.arange(0, BLOCK)
    wide = row_grad_ptr.dtype.element_ty
    rows = tl.program_id(0).to(tl.int64) * BLOCK + offs
    mask = rows < N
    target = tl.load(targets_ptr + rows, mask=mask, other=ignore_index)
    grad = tl.load(grad_ptr + rows * grad_stride, mask=mask, other=0.0).to(wide)
    if MEAN:
        counts = tl.zeros((BLOCK,), tl.int64)
        for first in range(0, N, BLOCK):
            there = first + offs < N
            each = tl.load(targets_ptr + first + offs, mask=there, other=ignore_index)
            counts += (each != ignore_index).to(tl.int64)
        grad = grad / tl.maximum(tl.sum(counts), 1).to(wide)
    grad = tl.where((target >= 0) & (target < V), grad, float("nan"))
    grad = tl.where(target == ignore_index, 0.0, grad)
    tl.store(row_grad_ptr + rows, grad, mask=mask)


@triton.jit(
    do_not_specialize=[*("N", "columns", "db_stride", "first_column", "on_bits", "off_bits")]
)
def _dz_kernel(
    dz_ptr,
    db_ptr,
    logits_ptr,
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    targets_ptr,
    lse_ptr,
    row_grad_ptr,
    N,
    columns,
    E,
    stride,
    db_stride,
    first_column,
    on_bits,
    off_bits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write the gradient of the logits of one slab, and partial sums of its columns.

        dz = g (exp(z - lse) - on [v = target] - off)

    dz [N, stride] may be logits itself; stride is a multiple of BLOCK_N, and what lies beyond
    columns is written too. db [programs, db_stride] (or None) begins at the slab's first column,
    which is first_column of the vocabulary. lse [N], g is row_grad [N]; on, off: float64 bits.
    """
    column = tl.program_id(1) * BLOCK_N
    wide = lse_ptr.dtype.element_ty
    offs_m, offs_n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    # Offsets inside of a tile, and what is compared for every logit, are int32: half the registers.
    on = on_bits.to(tl.float64, bitcast=True).to(wide)
    off = off_bits.to(tl.float64, bitcast=True).to(wide)
    sums = tl.zeros((BLOCK_N,), wide)
    for tile in range(TILES):
        row = (tl.program_id(0).to(tl.int64) * TILES + tile) * BLOCK_M
        z = _logits_tile(
            logits_ptr, hidden_ptr, weight_ptr, bias_ptr, row, column, N,
            columns, E, stride, wide, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        mask = offs_m < N - row
        lse = tl.load(lse_ptr + row + offs_m, mask=mask, other=float("inf"))
        grad = tl.load(row_grad_ptr + row + offs_m, mask=mask, other=0.0)
        target = tl.load(targets_ptr + row + offs_m, mask=mask, other=-1) - first_column - column
        hit = tl.where((target >= 0) & (target < BLOCK_N), target, -1).to(tl.int32)
        p = tl.exp(z - lse[:, None]) - off
        p = tl.where(hit[:, None] == offs_n[None, :], p - on, p)
        dz = p * grad[:, None]
        if db_ptr is not None:
            sums += tl.sum(dz, axis=0)  # 0 beyond N
        tile_ptr = dz_ptr + row * stride + column
        at = offs_m[:, None] * stride + offs_n[None, :]
        tl.store(tile_ptr + at, dz.to(dz_ptr.dtype.element_ty), mask=mask[:, None])
    if db_ptr is not None:
        program_ptr = db_ptr + tl.program_id(0).to(tl.int64) * db_stride + column
        tl.store(program_ptr + offs_n, sums, mask=offs_n < columns - column)
