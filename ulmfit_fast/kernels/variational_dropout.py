"""variational_dropout on a GPU: one launch, for any strides."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast.kernels.lstm import accumulation_dtype, check_support
from ulmfit_fast.kernels.mask import mask_arguments

#: Elements of a step and steps of a program: 4 neighbours a thread at 4 warps. Not timed yet.
BLOCK, RUN = 512, 8


def variational_dropout(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Drop features; arguments and results as in reference.variational_dropout."""
    check_support("variational_dropout", x)
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    import triton.language as tl

    from ulmfit_fast.kernels import sequence_tiles

    wide = tl.float64 if accumulation_dtype(x.dtype) == torch.float64 else tl.float32
    # Triton launches on the current device, which need not be x's.
    with torch.cuda.device_of(x):
        sequence_tiles._variational_dropout_kernel[grid(x)](
            out, x, seed, *sizes(x), *mask_arguments(drop_p), wide, rows_are_dense(x), RUN, BLOCK
        )
    return out


def grid(x: Tensor) -> tuple[int, int]:
    """Return the programs of a kernel of sequence_tiles: blocks of a step by runs of steps."""
    T, B, E = x.shape
    return -(-B * E // BLOCK), -(-T // RUN)


def sizes(x: Tensor) -> tuple[int, ...]:
    """Return T, n = B E, E and the strides of x [T, B, E]."""
    T, B, E = x.shape
    return T, B * E, E, *x.stride()


def rows_are_dense(x: Tensor) -> bool:
    """Say whether the elements of a step are neighbours in memory."""
    return x[0].is_contiguous()
