"""embedding_dropout on a GPU: one launch forward; backward a sort of the ids and two launches.

At 4,480 ids, V 60,000, E 400 in float32 forward reads and writes 7.2 MB each, 4 us at 3.35 TB/s;
backward reads 7.2 MB and writes the 96 MB of the gradient once, nearly all of them zeros: 31 us
(predictions, not yet measured).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast.kernels.lstm import accumulation_dtype, check_support
from ulmfit_fast.kernels.mask import mask_arguments

#: Ids of a program of the look-up, and the most elements of a row. Not timed yet.
BLOCK_N, BLOCK_E = 4, 512
#: Places of a program of the gradient, partial sums that are read at a time. Not timed yet.
CHUNK, HEADS = 8, 16


def embedding_dropout(
    ids: Tensor, weight: Tensor, drop_p: float, seed: Tensor | None, padding_idx: int | None
) -> Tensor:
    """Look up rows; arguments and results as in reference.embedding_dropout.

    An id that the table has no row for gives NaN.
    """
    check_support("embedding_dropout", weight)
    V, E = weight.shape
    out = weight.new_empty(*ids.shape, E)
    if out.numel() == 0:
        return out
    import triton.language as tl

    from ulmfit_fast.kernels import embedding_rows

    wide = tl.float64 if accumulation_dtype(weight.dtype) == torch.float64 else tl.float32
    if ids.dim() != 2:
        ids = ids.reshape(1, -1)
    block = block_of(E)
    # Triton launches on the current device, which need not be weight's.
    with torch.cuda.device_of(weight):
        embedding_rows._embedding_dropout_kernel[-(-ids.numel() // BLOCK_N), -(-E // block)](
            out, ids, weight, seed, ids.numel(), ids.shape[1], V, E, *ids.stride(),
            *weight.stride(), *mask_arguments(drop_p), wide, BLOCK_N, block,
        )  # fmt: skip
    return out


def embedding_dropout_backward(
    grad: Tensor,
    ids: Tensor,
    n_rows: int,
    drop_p: float,
    seed: Tensor | None,
    padding_idx: int | None,
) -> Tensor:
    """Return dw; arguments and results as in reference.embedding_dropout_backward.

    An id that the table has no row for adds to none.

    Numbers: masked and scaled after the sum, which is rounded once.
    """
    check_support("embedding_dropout_backward", grad)
    E = grad.shape[-1]
    dw = grad.new_zeros(n_rows, E)
    n = ids.numel()
    if n == 0 or dw.numel() == 0:
        return dw
    from ulmfit_fast.kernels import embedding_rows

    n_chunks, block = -(-n // CHUNK), block_of(E)
    with torch.cuda.device_of(grad):
        sorted_ids, order = ids.reshape(-1).sort(stable=True)
        partial = grad.new_empty((2, n_chunks, E), dtype=accumulation_dtype(grad.dtype))
        padding = -1 if padding_idx is None else padding_idx
        rest = (n, n_rows, E, padding, *mask_arguments(drop_p))
        grid = (n_chunks, -(-E // block))
        embedding_rows._sum_chunks_kernel[grid](
            dw, partial, grad.contiguous(), sorted_ids, order, seed, *rest, CHUNK, block
        )
        embedding_rows._sum_runs_kernel[grid](
            dw, partial, sorted_ids, seed, *rest, CHUNK, HEADS, block
        )
    return dw


def block_of(E: int) -> int:
    """Return the elements of a row that a program takes."""
    return min(BLOCK_E, 1 << (E - 1).bit_length())
