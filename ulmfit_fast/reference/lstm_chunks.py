"""One LSTM layer over the chunks of documents: truncated backpropagation, as in BPT3C.

Sizes as in lstm.py; K chunks of T steps each, R rows of all chunks together, B rows of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.reference.lstm import lstm_forward
from ulmfit_fast.reference.masks import accumulation_dtype


def lstm_chunks_forward(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    rows: Sequence[int],
    seed: Tensor | None,
    drop_p: float,
    save: bool,
) -> tuple[Tensor, ...]:
    """Run the layer over each chunk, from the state that the chunk before left.

    Args:
        x: input, the rows of the first chunk, then those of the second, ...; shape [T, R, I].
        w_ih: as in lstm_forward, like w_hh, bias and seed; shape [4H, I].
        w_hh: shape [4H, H].
        bias: shape [4H]; None for none.
        h0: hidden state that each row begins with, in whichever chunk; shape [B, H].
        c0: cell state likewise; shape [B, H], of x's dtype or the accumulation dtype.
        rows: rows of each chunk, none fewer than before: row b of a chunk is row b of the one
            before, where that has one. Their sum is R, the last is B.
        seed: int64 tensor with one element; None only where drop_p is 0.
        drop_p: chance that an entry of w_hh is zero for all chunks, in [0, 1).
        save: whether what lstm_backward needs is wanted: the last four results.

    Returns:
        y: hidden states; shape [T, R, H], dtype of x.
        h_n: hidden state after the last chunk; shape [B, H], dtype of x.
        c_n: cell state after the last chunk; shape [B, H], dtype of c0.
        h_starts: hidden state before each chunk; shape [R, H], dtype of x; [0, H] without save.
        c_starts: cell state likewise, in the accumulation dtype.
        c: cell state after each step; shape [T, R, H], accumulation dtype; [0] without save.
        gates: activated gates; shape [T, R, 4H], dtype of x; [0] without save.

    The gradient is that of each chunk by itself: lstm_backward of all R rows, which begin at
    h_starts and c_starts, as one batch.
    Source: Howard, Ruder 2018, arXiv:1801.06146, section 3.3.
    """
    return by_chunks(lstm_forward, x, w_ih, w_hh, bias, h0, c0, rows, seed, drop_p, save)


def by_chunks(forward: Callable[..., tuple[Tensor, ...]], *arguments: Any) -> tuple[Tensor, ...]:
    """Compute lstm_chunks_forward by a call of an lstm_forward for each chunk.

    Args:
        forward: any lstm_forward.
        arguments: those of lstm_chunks_forward.
    """
    x, w_ih, w_hh, bias, h0, c0, rows, seed, drop_p, save = arguments
    h, c = h0.clone(), c0.to(accumulation_dtype(x.dtype), copy=True)
    parts: list[tuple[Tensor, ...]] = []
    starts = []
    for chunk in torch.split(x, list(rows), dim=1):
        n = chunk.shape[1]
        h_start, c_start = h[:n].clone(), c[:n].clone()
        y, h_n, c_n, cells, gates = forward(
            chunk, w_ih, w_hh, bias, h_start, c_start, None, seed, drop_p, False, save
        )
        h[:n], c[:n] = h_n, c_n
        starts.append((h_start, c_start))
        parts.append((y, cells, gates))
    # What is not saved has shape [0].
    y, cells, gates = (
        torch.cat(of, dim=min(1, of[0].dim() - 1)) for of in zip(*parts, strict=True)
    )
    h_starts, c_starts = (torch.cat(of) for of in zip(*starts, strict=True))
    if not save:
        h_starts, c_starts = h_starts.new_empty(0, h.shape[1]), c_starts.new_empty(0, h.shape[1])
    return y, h, c.to(c0.dtype, copy=True), h_starts, c_starts, cells, gates
