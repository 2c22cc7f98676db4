"""The tied softmax's loss on a GPU: the only place that chooses its kernels.

Sizes: N tokens, E embedding size, V vocabulary. The vocabulary is cut into slabs. Of each slab the
forward pass keeps a largest logit and a sum for each row and split; the backward pass forms the
gradient of its logits (_dz_kernel) in a workspace [N, slab], from which cuBLAS makes the slab's
rows of dw, written once, and adds to dx, in float32. So dw never is read, where a cut along the
tokens would read and write all of it for every chunk.

16-bit operands are multiplied in the Triton kernels and logits are never written; float32 and
float64 logits of a slab are cuBLAS products (as exact as torch.set_float32_matmul_precision
allows), read by the same kernels and overwritten by their gradient. A weight of another dtype than
hidden, or not contiguous, is rounded or copied slab by slab. Nothing waits for the GPU, and a CUDA
graph can capture a call.

Roofline of the backward pass at N 4480, E 400, V 60,000, bfloat16 with float32 weights
(predictions, not yet measured): 3 products are 645 GFLOP, 0.65 ms at 989 TFLOP/s. Memory: weight
96 MB read and 48 MB written and read rounded, dw 96 MB written; dz 538 MB written and read twice,
of which L2 holds what it can of a slab's 34 MB: 0.1 ms with all of it, 0.55 ms with none, at
3.35 TB/s.
Launches there: forward 6 (two slabs rounded and reduced, two kernels that combine), backward 67 (4
for every slab, of which cuBLAS's may be two each; the rows' gradients, the bias's, dx rounded).
Beside results and workspace: sums for the bias's gradient, float32 [N / 128, V], a 64th of what
16-bit logits would take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.kernels.lstm import accumulation_dtype, check_support, multiply
from ulmfit_fast.kernels.mask import float_argument

#: Multiplied by tl.dot; others by cuBLAS.
FUSED_DTYPES = (torch.bfloat16, torch.float16)
#: Tiles of logits. K 400 is 13 blocks of 32 or 7 of 64, the last one half or a quarter full. With
#: 128 registers a thread two programs fit on a multiprocessor, and one takes exp while the other
#: multiplies; before sm_90, and with rows that are no multiple of 16 long, they would spill. Not
#: timed yet.
FORWARD_TILE = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 4}
BACKWARD_TILE = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
MAX_REGISTERS = 128
#: Tiles of logits that are read. Not timed yet.
LOADED_TILE = {"BLOCK_M": 16, "BLOCK_N": 128, "BLOCK_K": 16, "num_warps": 4}
#: What widths of slabs are multiples of: BLOCK_N of every tile divides it.
WHOLE_COLUMNS = 128
#: Rows whose column sums are one partial sum of the bias's gradient.
ROWS_OF_SUM = 128
#: Columns that one program of the forward pass goes through: 35 x 30 programs at N 4480, V 60,000
#: are 7.95 a multiprocessor of an H100. Not timed yet.
SPLIT = 2048
#: Columns of a slab that is read rounded in the forward pass: 15 splits, 25 MB at E 400.
FORWARD_SLAB = 15 * SPLIT
#: Columns of a slab of logits: [4480, 3840] in 16 bits are 34 MB, and 30 x 35 tiles of 128 x 128
#: are 7.95 a multiprocessor. Fewer rows: more columns, up to MAX_SLABS times as many.
SLAB = 3840
SLAB_ROWS = 4480
MAX_SLABS = 4
#: Rows and elements of a program of the small kernels.
COMBINED_ROWS, COMBINED_K = 16, 128
BLOCK_ROWS = 1024


def linear_cross_entropy_forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss; arguments and results as in reference.linear_cross_entropy_forward.

    Raises:
        NotImplementedError: a dtype that the kernels do not know.
        RuntimeError: a GPU that is too old for the dtype.
    """
    check_support("linear_cross_entropy_forward", hidden)
    from ulmfit_fast.kernels import loss_tiles

    (N, E), V = hidden.shape, len(weight)
    wide = accumulation_dtype(hidden.dtype)
    hidden, targets = hidden.contiguous(), targets.contiguous()
    bias = None if bias is None else bias.contiguous()
    losses, lse = hidden.new_empty(N, dtype=wide), hidden.new_empty(N, dtype=wide)
    loss = losses if reduction == "none" else hidden.new_empty((), dtype=wide)
    # Triton launches on the current device, which need not be hidden's.
    with torch.cuda.device_of(hidden):
        if N > 0:
            n_splits = -(-V // SPLIT)
            largest, sums = (lse.new_empty(n_splits, N) for _ in range(2))
            total = lse.new_empty(n_splits, N) if label_smoothing > 0 else None
            tile, width = tile_of(hidden, False), forward_width(hidden, weight)
            for first, w, logits in slabs(hidden, weight, width, None):
                grid = (-(-N // tile["BLOCK_M"]), -(-len(w) // SPLIT))
                loss_tiles._lse_kernel[grid](
                    largest, sums, total, *operands(hidden, w, logits, bias, first), N, len(w), E,
                    width, first // SPLIT, **tile, SPLIT=SPLIT,
                )  # fmt: skip
            loss_tiles._combine_kernel[(-(-N // COMBINED_ROWS),)](
                losses, lse, largest, sums, total, hidden, weight, bias, targets, N, V, E,
                *weight.stride(), n_splits, ignore_index, float_argument(label_smoothing),
                COMBINED_ROWS, COMBINED_K,
            )  # fmt: skip
        if reduction != "none":
            loss_tiles._total_kernel[(1,)](
                loss, losses, targets, N, ignore_index, reduction == "mean", BLOCK_ROWS, num_warps=8
            )
    if reduction == "none" or not (need_dx or need_dw):
        like_bias = weight if bias is None else bias
        return loss, lse, hidden.new_empty(0), weight.new_empty(0), like_bias.new_empty(0)
    return loss, lse, *linear_cross_entropy_backward(
        torch.ones_like(loss), hidden, weight, bias, targets, lse, ignore_index, label_smoothing,
        reduction, need_dx, need_dw,
    )  # fmt: skip


def linear_cross_entropy_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    lse: Tensor,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients; arguments and results as in reference.linear_cross_entropy_backward.

    Raises:
        NotImplementedError: a dtype that the kernels do not know.
        RuntimeError: a GPU that is too old for the dtype.

    Numbers: gradients of the logits are rounded to hidden's dtype before the products with them,
        not before the sums for the bias; dx is summed over the slabs in float32 or wider.
    """
    check_support("linear_cross_entropy_backward", hidden)
    from ulmfit_fast.kernels import loss_tiles

    (N, E), V = hidden.shape, len(weight)
    hidden, targets, lse = hidden.contiguous(), targets.contiguous(), lse.contiguous()
    bias = None if bias is None else bias.contiguous()
    dw = weight.new_empty(weight.shape if need_dw else 0)
    db = (weight if bias is None else bias).new_empty(V if need_dw and bias is not None else 0)
    dx = hidden.new_empty((N, E) if need_dx else 0, dtype=lse.dtype)
    if N == 0 or not (need_dx or need_dw):
        return dx.to(hidden.dtype), dw.zero_(), db.zero_()
    with torch.cuda.device_of(hidden):
        row_grad = torch.empty_like(lse)
        loss_tiles._row_gradient_kernel[(-(-N // BLOCK_ROWS),)](
            row_grad, grad, targets, N, V, grad.stride(0) if grad.dim() else 0, ignore_index,
            reduction == "mean", BLOCK_ROWS, num_warps=8,
        )  # fmt: skip
        tile = tile_of(hidden, True)
        n_tiles = max(ROWS_OF_SUM // tile["BLOCK_M"], 1)
        n_programs = -(-N // (n_tiles * tile["BLOCK_M"]))
        sums = lse.new_empty(n_programs, V) if db.numel() else None
        width = slab_width(N, V)
        workspace = hidden.new_empty(N, width)
        on, off = float_argument(1.0 - label_smoothing), float_argument(label_smoothing / V)
        for first, w, logits in slabs(hidden, weight, width, workspace):
            dz = workspace[:, : len(w)]
            loss_tiles._dz_kernel[n_programs, -(-len(w) // tile["BLOCK_N"])](
                dz, None if sums is None else sums[:, first:],
                *operands(hidden, w, logits, bias, first), targets, lse, row_grad, N, len(w), E,
                width, V, first, on, off, **tile, TILES=n_tiles,
            )  # fmt: skip
            if need_dw:
                multiply(dz.t(), hidden, dw[first : first + len(w)])
            if need_dx:
                (multiply if first == 0 else add_product)(dz, w, dx)
        if sums is not None:
            db = sums.sum(dim=0).to(db.dtype)
    return dx.to(hidden.dtype), dw, db


def tile_of(hidden: Tensor, backward: bool) -> dict[str, Any]:
    """Return the sizes and options of the kernels that go through tiles of logits."""
    if hidden.dtype not in FUSED_DTYPES:
        return LOADED_TILE
    import triton

    tile = BACKWARD_TILE if backward else FORWARD_TILE
    if triton.knobs.runtime.interpret:
        return tile
    target = triton.runtime.driver.active.get_current_target()
    if target.backend != "cuda":  # AMD's 64 KiB of shared memory hold less
        return {**tile, "num_stages": 2}
    fits = target.arch >= 90 and hidden.shape[1] % 16 == 0
    return {**tile, "maxnreg": MAX_REGISTERS} if fits else tile


def slab_width(N: int, V: int) -> int:
    """Return the columns of a slab of logits, whole tiles."""
    n = min(max(SLAB_ROWS // N, 1), MAX_SLABS)
    return min(n * SLAB, -(-V // WHOLE_COLUMNS) * WHOLE_COLUMNS)


def forward_width(hidden: Tensor, weight: Tensor) -> int:
    """Return the columns of a slab of the forward pass: whole splits."""
    if hidden.dtype in FUSED_DTYPES:
        widest = len(weight) if is_ready(weight, hidden.dtype) else FORWARD_SLAB
    else:
        widest = slab_width(len(hidden), len(weight))
    return -(-widest // SPLIT) * SPLIT


def is_ready(weight: Tensor, dtype: torch.dtype) -> bool:
    """Say whether the products can read the weight as it is."""
    return weight.dtype == dtype and weight.is_contiguous()


def slabs(
    hidden: Tensor, weight: Tensor, width: int, workspace: Tensor | None
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield the slabs of the vocabulary; each is overwritten by the next.

    Args:
        hidden: contiguous; shape [N, E].
        weight: shape [V, E].
        width: columns of a slab.
        workspace: for logits; shape [N, width]. None: allocated where needed.

    Yields:
        first: first column.
        w: rows of weight in hidden's dtype; contiguous, shape [columns, E].
        logits: without the bias, a part of workspace; None where the kernel multiplies.
    """
    V, E = weight.shape
    ready, fused = is_ready(weight, hidden.dtype), hidden.dtype in FUSED_DTYPES
    rounded = None if ready else hidden.new_empty(min(width, V), E)
    if not fused and workspace is None:
        workspace = hidden.new_empty(len(hidden), width)
    for first in range(0, V, width):
        w = weight[first : first + width]
        if rounded is not None:
            w = rounded[: len(w)].copy_(w)
        if fused or workspace is None:
            yield first, w, None
        else:
            yield first, w, torch.mm(hidden, w.t(), out=workspace[:, : len(w)])


def operands(
    hidden: Tensor, w: Tensor, logits: Tensor | None, bias: Tensor | None, first: int
) -> tuple[Tensor | None, ...]:
    """Return what a kernel makes tiles of logits from: logits, or hidden and weight; and bias."""
    bias = None if bias is None else bias[first:]
    return (None, hidden, w, bias) if logits is None else (logits, None, None, bias)


def add_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Add a b, summed and kept in out's dtype: that of a and b, or float32 beside 16 bits."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(out, a, b, out.dtype, out=out)
    else:  # the interpreter: torch's CPU product of 16-bit tensors has a 16-bit result
        out.addmm_(a.to(out.dtype), b.to(out.dtype))
