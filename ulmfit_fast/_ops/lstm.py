"""Fakes and gradients of the LSTM's ops for a sequence; those for chunks are in lstm_chunks.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ulmfit_fast._ops.schemas import register_fake
from ulmfit_fast.reference import accumulation_dtype


def _lstm_forward_fake(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    seed: Tensor | None,
    drop_p: float,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, ...]:
    T, B, H = x.shape[0], x.shape[1], w_hh.shape[1]
    state = x.new_empty(B, H), c0.new_empty(B, H)
    wide = accumulation_dtype(x.dtype)
    c = x.new_empty((T, B, H) if save else 0, dtype=wide)
    return x.new_empty(T, B, H), *state, c, x.new_empty((T, B, 4 * H) if save else 0)


def _lstm_forward_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w_ih, w_hh, bias, h0, c0, lengths, seed, ctx.drop_p, ctx.reverse, ctx.save = inputs
    y, _, _, c, gates = output
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, w_ih, w_hh, h0, c0, y, c, gates, lengths, seed)
    ctx.mark_non_differentiable(c, gates)
    ctx.set_materialize_grads(False)  # zeros like gates would be made, and read by nobody


def _lstm_forward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("lstm_forward: a gradient is wanted of a call with save=False")
    need_x, need_w_ih, need_w_hh, need_bias, need_h0, need_c0 = ctx.needs_input_grad[:6]
    _, _, _, h0, c0, y, *_ = ctx.saved_tensors
    into = (
        like.new_zeros(like.shape) if grad is None else grad
        for grad, like in zip(grads, (y, h0, c0), strict=False)
    )
    dx, dw_ih, dw_hh, dbias, dh0, dc0 = torch.ops.ulmfit_fast.lstm_backward(
        *into, *ctx.saved_tensors, ctx.drop_p, ctx.reverse, need_x,
        need_w_ih or need_w_hh or need_bias,
    )  # fmt: skip
    return (
        dx if need_x else None,
        dw_ih if need_w_ih else None,
        dw_hh if need_w_hh else None,
        dbias if need_bias else None,
        dh0 if need_h0 else None,
        dc0 if need_c0 else None,
        *[None] * 5,
    )


def _lstm_backward_fake(
    dy: Tensor,
    dh_n: Tensor,
    dc_n: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    need_dx, need_dw = rest[-2:]
    dx = x.new_empty(x.shape if need_dx else 0)
    sizes = (w_ih.shape, w_hh.shape, w_hh.shape[:1]) if need_dw else (0, 0, 0)
    return (
        dx,
        *(w_hh.new_empty(size) for size in sizes),
        h0.new_empty(h0.shape),
        c0.new_empty(c0.shape),
    )


def _lstm_backward_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "lstm_backward: the kernels give first derivatives only; for second ones call "
        "ulmfit_fast.reference.lstm"
    )


register_fake("lstm_forward", _lstm_forward_fake)
torch.library.register_autograd(
    "ulmfit_fast::lstm_forward", _lstm_forward_backward, setup_context=_lstm_forward_save
)
register_fake("lstm_backward", _lstm_backward_fake)
torch.library.register_autograd("ulmfit_fast::lstm_backward", _lstm_backward_backward)
