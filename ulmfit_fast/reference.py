"""Every operation in plain PyTorch: the specification that all kernels are held against.

Sizes: T time steps, B batch rows, I input features, H hidden units, E embedding size, V vocabulary,
N tokens, L layers. Gates are stacked i, f, g, o as in torch.nn.LSTM.

Random masks are functions of a seed. Element i of a tensor (row-major, whatever the strides) reads
word i % 4 of Philox4x32-10 with counter (j lo32, j hi32, 0, 0), j = i // 4, and key (seed lo32,
seed hi32). It is kept iff that word >= floor(drop_p * 2**32), and a kept value is multiplied by
1 / (1 - drop_p).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WORD = 0xFFFFFFFF
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the four 32-bit words of Philox4x32-10.

    Args:
        counter: four int64 tensors of one shape, each holding 32-bit words.
        key: two int64 tensors that broadcast against them, 32-bit words.

    Returns:
        words: four int64 tensors in [0, 2**32).

    Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2**64, so both 32-bit halves come out right.
        p0 = c0 * PHILOX_MULTIPLIERS[0]
        p1 = c2 * PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & WORD) ^ c1 ^ k0,
            p1 & WORD,
            ((p0 >> 32) & WORD) ^ c3 ^ k1,
            p0 & WORD,
        )
        k0 = (k0 + PHILOX_KEY_STEPS[0]) & WORD
        k1 = (k1 + PHILOX_KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def keep_mask(shape: torch.Size | tuple[int, ...], drop_p: float, seed: Tensor) -> Tensor:
    """Draw which elements of a tensor stay.

    Args:
        shape: any shape; elements are counted in row-major order.
        drop_p: chance that an element is dropped, in [0, 1).
        seed: int64 tensor with one element; the mask lies on its device.

    Returns:
        keep: bool tensor of the shape, True where the element stays.
    """
    n = torch.Size(shape).numel()
    block = torch.arange((n + 3) // 4, device=seed.device)
    zero = torch.zeros_like(block)
    seed = seed.reshape(())
    words = philox4x32((block & WORD, block >> 32, zero, zero), (seed & WORD, (seed >> 32) & WORD))
    threshold = int(drop_p * 2**32)
    return (torch.stack(words, dim=1).flatten()[:n] >= threshold).reshape(shape)


def drop_connect(weight: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Zero each element with chance drop_p and rescale the rest by 1 / (1 - drop_p).

    Args:
        weight: any shape and strides, floating point.
        drop_p: chance that an element is zero, in [0, 1).
        seed: int64 tensor with one element, on weight's device.

    Returns:
        dropped: contiguous tensor of weight's shape and dtype; dropped entries are +0.
    """
    keep = keep_mask(weight.shape, drop_p, seed)
    return torch.where(keep, weight * (1.0 / (1.0 - drop_p)), 0.0).contiguous()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and of the cell state: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def lstm_forward(
    gates_x: Tensor, w_hh: Tensor, h0: Tensor, c0: Tensor, drop_p: float, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one LSTM layer with dropped recurrent weights over a whole sequence.

        a = gates_x[t] + h[t-1] (m * W_hh)^T,  i, f, o = sigmoid(a_i, a_f, a_o),  g = tanh(a_g)
        c[t] = f c[t-1] + i g                  h[t] = o tanh(c[t])

    Args:
        gates_x: input part of the gates, x W_ih^T + b_ih + b_hh; shape [T, B, 4H].
        w_hh: recurrent weights before dropping; shape [4H, H].
        h0: initial hidden state; shape [B, H].
        c0: initial cell state; shape [B, H].
        drop_p: chance that an entry of w_hh is zero for this whole sequence, in [0, 1).
        seed: int64 tensor with one element.

    Returns:
        y: hidden states; shape [T, B, H], dtype of gates_x.
        c: cell states; shape [T, B, H], float32 or wider.
        gates: activated gates i, f, g, o; shape [T, B, 4H], dtype of gates_x.

    Numbers: sums and cell state in float32 or wider; h is rounded to gates_x's dtype each step.
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182, section 2.
    """
    wide = accumulation_dtype(gates_x.dtype)
    w = (drop_connect(w_hh, drop_p, seed) if drop_p > 0 else w_hh).to(wide)
    h, c = h0, c0.to(wide)
    ys, cs, gates = [], [], []
    for gates_x_t in gates_x.unbind(0):
        a_i, a_f, a_g, a_o = (gates_x_t.to(wide) + h.to(wide) @ w.t()).chunk(4, dim=1)
        i, f, g, o = a_i.sigmoid(), a_f.sigmoid(), a_g.tanh(), a_o.sigmoid()
        c = f * c + i * g
        h = (o * c.tanh()).to(gates_x.dtype)
        ys.append(h)
        cs.append(c)
        gates.append(torch.cat([i, f, g, o], dim=1).to(gates_x.dtype))
    return torch.stack(ys), torch.stack(cs), torch.stack(gates)


def lstm_backward(
    dy: Tensor,
    dc_n: Tensor,
    saved: tuple[Tensor, Tensor, Tensor],
    w_hh: Tensor,
    state: tuple[Tensor, Tensor],
    drop_p: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of lstm_forward, written out by hand.

    Args:
        dy: gradient of y; shape [T, B, H]. The gradient of the last hidden state is part of dy[-1].
        dc_n: gradient of the last cell state; shape [B, H].
        saved: y, c, gates as lstm_forward returned them.
        w_hh: recurrent weights before dropping; shape [4H, H].
        state: h0 and c0; each of shape [B, H].
        drop_p: as in the forward call.
        seed: as in the forward call.

    Returns:
        dgates_x: shape [T, B, 4H].
        dw_hh: gradient of the undropped weights; shape [4H, H].
        dh0: shape [B, H].
        dc0: shape [B, H].
    """
    y, c, gates = saved
    h0, c0 = state
    wide = accumulation_dtype(y.dtype)
    w = (drop_connect(w_hh, drop_p, seed) if drop_p > 0 else w_hh).to(wide)
    dh = torch.zeros_like(h0, dtype=wide)
    dc = dc_n.to(wide)
    dgates = []
    for t in reversed(range(len(y))):
        i, f, g, o = gates[t].to(wide).chunk(4, dim=1)
        c_prev = (c[t - 1] if t > 0 else c0).to(wide)
        tanh_c = c[t].to(wide).tanh()
        dh = dh + dy[t].to(wide)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        da_i = dc * g * i * (1 - i)
        da_f = dc * c_prev * f * (1 - f)
        da_g = dc * i * (1 - g * g)
        da_o = dh * tanh_c * o * (1 - o)
        da = torch.cat([da_i, da_f, da_g, da_o], dim=1)
        dgates.append(da)
        dh = da @ w
        dc = dc * f
    dgates_x = torch.stack(dgates[::-1])
    h_prev = torch.cat([h0.unsqueeze(0), y[:-1]]).to(wide)
    dw = torch.einsum("tbg,tbh->gh", dgates_x, h_prev)  # one product after the loop, as kernels do
    if drop_p > 0:
        dw = drop_connect(dw, drop_p, seed)  # the mask's own gradient is the mask
    return dgates_x.to(y.dtype), dw.to(w_hh.dtype), dh.to(h0.dtype), dc.to(c0.dtype)


def lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    drop_p: float,
    seed: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one LSTM layer with dropped recurrent weights; gradients by autograd.

    Equivalent to: torch.nn.LSTM(I, H) with weight_hh_l0 replaced by drop_connect(weight_hh_l0).

    Args:
        x: input; shape [T, B, I].
        state: h0 and c0; each of shape [B, H].
        weights: w_ih [4H, I], w_hh [4H, H], b_ih [4H], b_hh [4H].
        drop_p: chance that an entry of w_hh is zero for this whole sequence, in [0, 1).
        seed: int64 tensor with one element.

    Returns:
        y: hidden states; shape [T, B, H].
        state: h and c of the last step; each of shape [B, H].
    """
    w_ih, w_hh, b_ih, b_hh = weights
    h0, c0 = state
    gates_x = F.linear(x, w_ih, b_ih + b_hh)
    y, c, _ = lstm_forward(gates_x, w_hh, h0, c0, drop_p, seed)
    return y, (y[-1], c[-1].to(c0.dtype))


def embedding_dropout(
    ids: Tensor, weight: Tensor, drop_p: float, seed: Tensor, padding_idx: int | None = None
) -> Tensor:
    """Look up embeddings with whole words dropped: one draw for every row of the table.

    Args:
        ids: token ids, any shape, int64.
        weight: embedding table; shape [V, E].
        drop_p: chance that a word's embedding is zero in this whole call, in [0, 1).
        seed: int64 tensor with one element.
        padding_idx: row that gets no gradient from the look-up.

    Returns:
        embedded: shape [*ids.shape, E].

    Source: Gal, Ghahramani 2016, arXiv:1512.05287.
    """
    scale = drop_connect(weight.new_ones(len(weight), 1), drop_p, seed)
    return F.embedding(ids, weight * scale, padding_idx)


def variational_dropout(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Drop features with one draw per row for all time steps.

    Args:
        x: shape [T, B, E].
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).
        seed: int64 tensor with one element; element (b, e) has index b * E + e.

    Returns:
        dropped: shape [T, B, E].
    """
    return x * drop_connect(torch.ones_like(x[0]), drop_p, seed)


def concat_pool(output: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Concatenate the last, the largest and the mean vector over each row's valid positions.

    Args:
        output: shape [B, T, E].
        start: first valid position of each row; int64, shape [B].
        end: one past the last valid position, start < end <= T; int64, shape [B].

    Returns:
        pooled: last, max, mean in this order; shape [B, 3E].
    """
    positions = torch.arange(output.shape[1], device=output.device)
    valid = ((positions >= start[:, None]) & (positions < end[:, None])).unsqueeze(2)
    last = output[torch.arange(len(output), device=output.device), end - 1]
    largest = output.masked_fill(~valid, float("-inf")).amax(dim=1)
    mean = output.masked_fill(~valid, 0.0).sum(dim=1) / (end - start).unsqueeze(1)
    return torch.cat([last, largest, mean.to(output.dtype)], dim=1)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    """Return the mean cross-entropy of a linear layer's logits.

    Args:
        hidden: shape [N, E].
        weight: shape [V, E].
        bias: shape [V] or None.
        targets: class of each row, int64, shape [N].
        ignore_index: rows with this target count for nothing.

    Returns:
        loss: scalar, float32 or wider; NaN when every target is ignored.
    """
    logits = F.linear(hidden, weight, bias).to(accumulation_dtype(hidden.dtype))
    return F.cross_entropy(logits, targets, ignore_index=ignore_index)


def adamw_step(
    param: Tensor,
    grad: Tensor,
    moments: tuple[Tensor, Tensor],
    step: int,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of Adam with decoupled weight decay for one layer, out of place.

    Args:
        param: any shape.
        grad: gradient, same shape.
        moments: running means of grad and grad ** 2, same shape.
        step: number of this step, from 1.
        lr: this layer's learning rate.
        weight_decay: the parameter shrinks by lr * weight_decay first.
        betas: decay rates of the moments; the current ones are used in the bias correction.
        eps: added to the root of the second moment.

    Returns:
        param: new parameter.
        exp_avg: new first moment.
        exp_avg_sq: new second moment.

    Source: Loshchilov, Hutter 2019, arXiv:1711.05101.
    """
    beta1, beta2 = betas
    exp_avg = beta1 * moments[0] + (1 - beta1) * grad
    exp_avg_sq = beta2 * moments[1] + (1 - beta2) * grad * grad
    denominator = (exp_avg_sq / (1 - beta2**step)).sqrt() + eps
    decayed = param * (1 - lr * weight_decay)
    return decayed - lr / (1 - beta1**step) * exp_avg / denominator, exp_avg, exp_avg_sq
