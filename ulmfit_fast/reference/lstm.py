"""One LSTM layer with dropped recurrent weights over a whole sequence.

Sizes: T time steps, B batch rows, I input features, H hidden units. Gates are stacked i, f, g, o as
in torch.nn.LSTM. lstm_forward and lstm_backward have the arguments and results of the ops of the
same name; lstm is what a user calls, differentiable any number of times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ulmfit_fast.reference.masks import accumulation_dtype, drop_connect


def lstm_forward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the layer.

        a = x[t] W_ih^T + bias + h[t-1] (m * W_hh)^T
        i, f, o = sigmoid(a_i, a_f, a_o),  g = tanh(a_g)
        c[t] = f c[t-1] + i g,  h[t] = o tanh(c[t])

    Args:
        x: input; shape [T, B, I].
        w_ih: input weights; shape [4H, I]. Weights and bias have x's dtype, or all the accumulation
            dtype: they are rounded to x's, their gradients are not.
        w_hh: recurrent weights before dropping; shape [4H, H].
        bias: b_ih + b_hh; shape [4H]; None for none.
        h0: initial hidden state; shape [B, H].
        c0: initial cell state; shape [B, H], of x's dtype or the accumulation dtype.
        lengths: steps of each row; int64, shape [B], those outside 0..T mean the nearer of
            the two; None: all T. Beyond its length a row's state stands still and its y is 0.
        seed: int64 tensor with one element; None only where drop_p is 0.
        drop_p: chance that an entry of w_hh is zero for this whole sequence, in [0, 1).
        reverse: run from each row's last step to its first; h[t-1] then means h[t+1].
        save: whether c and gates are wanted (by lstm_backward).

    Returns:
        y: hidden states; shape [T, B, H], dtype of x.
        h_n: hidden state after the last step; shape [B, H], dtype of x.
        c_n: cell state after the last step; shape [B, H], dtype of c0.
        c: cell state after each step; shape [T, B, H], accumulation dtype; shape [0] without save.
        gates: activated gates i, f, g, o, 0 beyond a row's length; shape [T, B, 4H], dtype of x;
            shape [0] without save.

    Numbers: sums and cell state in float32 or wider; x W_ih^T + bias, h and gates are rounded to
    x's dtype.
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182, section 2.
    """
    wide = accumulation_dtype(x.dtype)
    w_ih, w_hh = w_ih.to(x.dtype), w_hh.to(x.dtype)
    w = dropped_weight(w_hh, drop_p, seed).to(wide)
    gates_x = F.linear(x, w_ih, None if bias is None else bias.to(x.dtype))  # [T, B, 4H]
    h, c = h0, c0.to(wide)
    ys, cs, gates = [], [], []
    for t in steps(len(x), reverse):
        a_i, a_f, a_g, a_o = (gates_x[t].to(wide) + h.to(wide) @ w.t()).chunk(4, dim=1)
        i, f, g, o = a_i.sigmoid(), a_f.sigmoid(), a_g.tanh(), a_o.sigmoid()
        c_next = f * c + i * g
        h_next = (o * c_next.tanh()).to(x.dtype)
        gates_t = torch.cat([i, f, g, o], dim=1).to(x.dtype)
        if lengths is None:
            h, c, y = h_next, c_next, h_next
        else:
            runs = (t < lengths).unsqueeze(1)  # [B, 1]
            h, c = torch.where(runs, h_next, h), torch.where(runs, c_next, c)
            y, gates_t = torch.where(runs, h_next, 0), torch.where(runs, gates_t, 0)
        ys.append(y)
        cs.append(c)
        gates.append(gates_t)
    if reverse:
        ys, cs, gates = ys[::-1], cs[::-1], gates[::-1]
    # Results of an op are no aliases of each other or of its arguments.
    h_n, c_n = h.clone(), c.to(c0.dtype, copy=True)
    if not save:
        return torch.stack(ys), h_n, c_n, c.new_empty(0), x.new_empty(0)
    return torch.stack(ys), h_n, c_n, torch.stack(cs), torch.stack(gates)


def lstm_backward(
    dy: Tensor,
    dh_n: Tensor,
    dc_n: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    y: Tensor,
    c: Tensor,
    gates: Tensor,
    lengths: Tensor | None,
    seed: Tensor | None,
    drop_p: float,
    reverse: bool,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of lstm_forward, written out by hand.

    Args:
        dy: gradient of y; shape [T, B, H].
        dh_n: gradient of h_n; shape [B, H].
        dc_n: gradient of c_n; shape [B, H].
        x: as in the forward call, like w_ih, w_hh, h0, c0, lengths, seed, drop_p and reverse.
        w_ih: shape [4H, I].
        w_hh: shape [4H, H].
        h0: shape [B, H].
        c0: shape [B, H].
        y: result of the forward call, like c and gates; shape [T, B, H].
        c: shape [T, B, H].
        gates: shape [T, B, 4H].
        lengths: shape [B] or None.
        seed: int64 tensor with one element, or None.
        drop_p: chance of the mask.
        reverse: direction.
        need_dx: whether dx is wanted; else it has shape [0].
        need_dw: whether dw_ih, dw_hh and dbias are wanted; else they have shape [0].

    Returns:
        dx: shape [T, B, I].
        dw_ih: shape [4H, I].
        dw_hh: gradient of the undropped weights; shape [4H, H].
        dbias: shape [4H].
        dh0: shape [B, H].
        dc0: shape [B, H].

    Numbers: sums in float32 or wider; every result has the dtype of what it is the gradient of.
    """
    wide, of_weights = accumulation_dtype(x.dtype), w_hh.dtype
    w_ih, w_hh = w_ih.to(x.dtype), w_hh.to(x.dtype)
    w = dropped_weight(w_hh, drop_p, seed).to(wide)
    dh, dc = dh_n.to(wide), dc_n.to(wide)
    order = steps(len(x), reverse)
    h_prev, c_prev = before(h0, y, lengths, reverse), before(c0.to(wide), c, lengths, reverse)
    dgates = []
    for t in reversed(order):
        runs = None if lengths is None else (t < lengths).unsqueeze(1)
        i, f, g, o = gates[t].to(wide).chunk(4, dim=1)
        tanh_c = c[t].tanh()
        dh_t = dh + dy[t].to(wide)
        dc_t = dc + dh_t * o * (1 - tanh_c * tanh_c)
        da_i = dc_t * g * i * (1 - i)
        da_f = dc_t * c_prev[t] * f * (1 - f)
        da_g = dc_t * i * (1 - g * g)
        da_o = dh_t * tanh_c * o * (1 - o)
        da = torch.cat([da_i, da_f, da_g, da_o], dim=1)
        if runs is None:
            dh, dc = da @ w, dc_t * f
        else:
            da = torch.where(runs, da, 0)
            dh, dc = torch.where(runs, da @ w, dh), torch.where(runs, dc_t * f, dc)
        dgates.append(da)
    dgates_x = torch.stack(dgates if reverse else dgates[::-1]).flatten(0, 1)  # [T B, 4H]
    dx = x.new_empty(0)
    if need_dx:
        dx = (dgates_x @ w_ih.to(wide)).reshape(x.shape).to(x.dtype)
    dh0, dc0 = dh.to(h0.dtype, copy=True), dc.to(c0.dtype, copy=True)
    if not need_dw:
        none = [x.new_empty(0, dtype=of_weights) for _ in range(3)]
        return dx, none[0], none[1], none[2], dh0, dc0
    # One product for each after the loop, as kernels do. The mask's own gradient is the mask.
    dw_ih = dgates_x.t() @ x.flatten(0, 1).to(wide)
    dw_hh = dropped_weight(dgates_x.t() @ h_prev.flatten(0, 1).to(wide), drop_p, seed)
    dbias = dgates_x.sum(dim=0)
    return dx, dw_ih.to(of_weights), dw_hh.to(of_weights), dbias.to(of_weights), dh0, dc0


def lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    drop_p: float,
    seed: Tensor | None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one LSTM layer with dropped recurrent weights; gradients by autograd, of any order.

    Equivalent to: torch.nn.LSTM(I, H) with weight_hh_l0 replaced by drop_connect(weight_hh_l0).

    Args:
        x: input; shape [T, B, I].
        state: h0 and c0; each of shape [B, H].
        weights: w_ih [4H, I], w_hh [4H, H], b_ih [4H] and b_hh [4H], or both None.
        drop_p: chance that an entry of w_hh is zero for this whole sequence, in [0, 1).
        seed: int64 tensor with one element; None only where drop_p is 0.
        lengths: steps of each row; int64, shape [B]; None: all T.
        reverse: run from each row's last step to its first.

    Returns:
        y: hidden states; shape [T, B, H].
        state: h and c of the last step; each of shape [B, H].
    """
    w_ih, w_hh, b_ih, b_hh = weights
    bias = None if b_ih is None or b_hh is None else b_ih + b_hh
    y, h_n, c_n, _, _ = lstm_forward(
        x, w_ih, w_hh, bias, *state, lengths, seed, drop_p, reverse, save=False
    )
    return y, (h_n, c_n)


def steps(n: int, reverse: bool) -> range:
    """Return the time steps 0..n-1 in the order in which they run."""
    return range(n - 1, -1, -1) if reverse else range(n)


def dropped_weight(w_hh: Tensor, drop_p: float, seed: Tensor | None) -> Tensor:
    """Return drop_connect(w_hh), or w_hh itself where nothing is dropped."""
    if drop_p == 0:
        return w_hh
    if seed is None:
        raise ValueError(f"seed: a tensor is needed where drop_p is {drop_p}")
    return drop_connect(w_hh, drop_p, seed)


def before(initial: Tensor, after: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """Return the state that each step began with.

    Args:
        initial: state before the first step; shape [B, H].
        after: state after each step; shape [T, B, H].
        lengths: shape [B] or None.
        reverse: direction.

    Returns:
        state: shape [T, B, H].
    """
    if not reverse:
        return torch.cat([initial.unsqueeze(0), after[:-1]])
    shifted = torch.cat([after[1:], initial.unsqueeze(0)])
    if lengths is None:
        return shifted
    t = torch.arange(len(after), device=after.device).unsqueeze(1)
    return torch.where((t + 1 < lengths).unsqueeze(2), shifted, initial)
