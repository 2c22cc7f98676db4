"""Fake and gradient of the LSTM's op over the chunks of documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast._ops.schemas import register_fake
from ulmfit_fast.reference import accumulation_dtype


def _lstm_chunks_forward_fake(
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
    T, R, H = x.shape[0], x.shape[1], w_hh.shape[1]
    wide = accumulation_dtype(x.dtype)
    n_starts = R if save else 0
    return (
        x.new_empty(T, R, H),
        x.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        x.new_empty(n_starts, H),
        x.new_empty(n_starts, H, dtype=wide),
        x.new_empty((T, R, H) if save else 0, dtype=wide),
        x.new_empty((T, R, 4 * H) if save else 0),
    )


def _lstm_chunks_forward_save(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
) -> None:
    x, w_ih, w_hh, bias, _, c0, ctx.rows, seed, ctx.drop_p, ctx.save = inputs
    y, _, _, h_starts, c_starts, c, gates = output
    ctx.has_bias, ctx.c0_dtype = bias is not None, c0.dtype
    ctx.save_for_backward(x, w_ih, w_hh, h_starts, c_starts, y, c, gates, seed)
    ctx.mark_non_differentiable(h_starts, c_starts, c, gates)
    ctx.set_materialize_grads(False)  # zeros like gates would be made, and read by nobody


def _lstm_chunks_forward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("lstm_chunks_forward: a gradient is wanted of a call with save=False")
    need_x, need_w_ih, need_w_hh, need_bias, need_h0, need_c0 = ctx.needs_input_grad[:6]
    x, w_ih, w_hh, h_starts, c_starts, y, c, gates, seed = ctx.saved_tensors
    dy, dh_n, dc_n = grads[:3]
    # Of all the states that chunks leave, only the last ones have a gradient.
    dh, dc = torch.zeros_like(h_starts), torch.zeros_like(c_starts)
    for all_rows, last in ((dh, dh_n), (dc, dc_n)):
        if last is not None:
            all_rows[len(all_rows) - len(last) :] = last
    dx, dw_ih, dw_hh, dbias, dh, dc = torch.ops.ulmfit_fast.lstm_backward(
        y.new_zeros(y.shape) if dy is None else dy, dh, dc, x, w_ih, w_hh, h_starts, c_starts,
        y, c, gates, None, seed, ctx.drop_p, False, need_x, need_w_ih or need_w_hh or need_bias,
    )  # fmt: skip
    return (
        dx if need_x else None,
        dw_ih if need_w_ih else None,
        dw_hh if need_w_hh else None,
        dbias if need_bias else None,
        _of_first_rows(dh, ctx.rows) if need_h0 else None,
        _of_first_rows(dc, ctx.rows).to(ctx.c0_dtype) if need_c0 else None,
        *[None] * 4,
    )


def _of_first_rows(grad: Tensor, rows: Sequence[int]) -> Tensor:
    """Return the gradient [B, H] of the initial state: of each row in the chunk it begins in."""
    begun, first, parts = 0, 0, []
    for n in rows:
        parts.append(grad[first + begun : first + n])
        begun, first = n, first + n
    return torch.cat(parts)


register_fake("lstm_chunks_forward", _lstm_chunks_forward_fake)
torch.library.register_autograd(
    "ulmfit_fast::lstm_chunks_forward",
    _lstm_chunks_forward_backward,
    setup_context=_lstm_chunks_forward_save,
)
