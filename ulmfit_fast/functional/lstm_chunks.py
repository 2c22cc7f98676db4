"""One weight-dropped LSTM layer over the chunks of documents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ulmfit_fast import _native
from ulmfit_fast.functional.lstm import LSTMWeights, State, check_lstm


def lstm_chunks(
    x: Tensor,
    state: State | None,
    weights: LSTMWeights,
    rows: Sequence[int],
    drop_p: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run one LSTM layer over documents cut into chunks, each from where the one before ended.

    Equivalent to: a call of lstm for each chunk, with the state of the one before, detached. That
    gradients end at the chunks' borders makes their backward pass one batch of short sequences:
    as many steps as a chunk has, not as a document.

    Args:
        x: input, the rows of the first chunk, then those of the second, ...; shape [T, R, I].
        state: h0 and c0, each of shape [B, H], what each row begins with in whichever chunk; None:
            zeros. c0 may be float32 beside 16-bit x.
        weights: as in lstm.
        rows: rows of each chunk, none fewer than before: row b of a chunk goes on where row b of
            the one before ended, where that has one. Their sum is R, the last is B.
        drop_p: chance that an entry of w_hh is zero for all chunks, in [0, 1).
        seed: as in lstm.

    Returns:
        y: hidden states; shape [T, R, H], dtype of x.
        state: h and c after the last chunk; each of shape [B, H], dtypes of the initial state.

    Raises:
        ValueError: rows that are empty, fall, or have another sum; else as lstm.
        NotImplementedError, RuntimeError: as lstm.

    Numbers: as lstm.
    Source: Howard, Ruder 2018, arXiv:1801.06146, section 3.3 (BPT3C).
    """
    counts = list(rows) if isinstance(rows, Sequence) else []
    if not all(isinstance(n, int | torch.SymInt) for n in counts):
        raise ValueError(f"rows: expected whole numbers, found {counts}")
    if not counts or counts[0] < 1 or any(b < a for a, b in pairwise(counts)):
        raise ValueError(f"rows: expected numbers from 1 up, none falling, found {counts}")
    check_lstm(x, state, weights, drop_p, seed, n_states=counts[-1])
    if sum(counts) != x.shape[1]:
        raise ValueError(f"rows: expected a sum of {x.shape[1]} as x has, found {sum(counts)}")
    w_ih, w_hh, b_ih, b_hh = weights
    if state is None:
        h0 = x.new_zeros(counts[-1], w_hh.shape[1])
        state = (h0, h0.clone())
    bias = None if b_ih is None or b_hh is None else b_ih + b_hh
    arguments = (x, w_ih, w_hh, bias, *state)
    save = torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in arguments)
    _native.require_kernel("lstm_chunks_forward", x.device)
    y, h_n, c_n, *_ = torch.ops.ulmfit_fast.lstm_chunks_forward(
        *arguments, counts, seed if drop_p > 0 else None, drop_p, save
    )
    return y, (h_n, c_n)
