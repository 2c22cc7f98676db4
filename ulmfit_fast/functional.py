"""The documented functions: check the arguments, then call the operation.

Sizes as in reference.py. Every random mask is a function of a seed tensor; draw_seeds makes seeds
from PyTorch's generator of the device, so torch.manual_seed fixes every mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ulmfit_fast import _native, reference

State = tuple[Tensor, Tensor]


def draw_seeds(n: int, device: torch.device | str) -> Tensor:
    """Draw n mask seeds from the device's default generator; int64, shape [n], no host sync."""
    return torch.randint(2**63 - 1, (n,), device=device)


def drop_connect(weight: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Zero each element with chance drop_p and rescale the rest by 1 / (1 - drop_p).

    Equivalent to: F.dropout(weight, drop_p), with a mask that is a function of the seed.

    Args:
        weight: any shape and strides; float32, float64, bfloat16 or float16.
        drop_p: chance that an element is zero, in [0, 1).
        seed: int64 tensor with one element, on weight's device.

    Returns:
        dropped: contiguous tensor of weight's shape and dtype.

    Raises:
        ValueError: drop_p outside [0, 1), or a seed of another dtype, size or device.
        RuntimeError: no kernel for weight's device; the message says why and what to run.

    Numbers: the same bits on every backend. Layout of the mask: reference.py.
    """
    check_drop_p(drop_p)
    if not weight.is_floating_point():
        raise ValueError(f"weight: expected a floating-point tensor, found {weight.dtype}")
    if seed.dtype != torch.int64 or seed.numel() != 1:
        found = f"{seed.dtype} {list(seed.shape)}"
        raise ValueError(f"seed: expected an int64 tensor with one element, found {found}")
    if seed.device != weight.device:
        raise ValueError(f"seed: expected on {weight.device} beside weight, found on {seed.device}")
    _native.require_kernel("drop_connect", weight.device)
    dropped: Tensor = torch.ops.ulmfit_fast.drop_connect(weight, drop_p, seed)
    return dropped


def lstm(
    x: Tensor,
    state: State,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    drop_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, State]:
    """Run one LSTM layer whose recurrent weights are dropped once for the whole sequence.

    Equivalent to: torch.nn.LSTM(I, H) with weight_hh_l0 replaced by drop_connect(weight_hh_l0).

    Args:
        x: input; shape [T, B, I].
        state: h0 and c0; each of shape [B, H].
        weights: w_ih [4H, I], w_hh [4H, H], b_ih [4H], b_hh [4H]; gates i, f, g, o.
        drop_p: chance that an entry of w_hh is zero for this whole sequence, in [0, 1).
        seed: int64 tensor with one element; None only where drop_p is 0.

    Returns:
        y: hidden states; shape [T, B, H].
        state: h and c of the last step; each of shape [B, H].

    Raises:
        ValueError: a shape that does not fit the others, an empty sequence, or a missing seed.

    Numbers: torch's own LSTM with the dropped weight; gradients of everything by autograd.
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182, section 2.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    h0, c0 = state
    check_lstm_shapes(x, state, weights)
    if drop_p > 0:
        if seed is None:
            raise ValueError(f"seed: a tensor is needed where drop_p is {drop_p}")
        w_hh = drop_connect(w_hh, drop_p, seed)
    y, h_n, c_n = torch.lstm(
        x, [h0.unsqueeze(0), c0.unsqueeze(0)], [w_ih, w_hh, b_ih, b_hh],
        has_biases=True, num_layers=1, dropout=0.0, train=torch.is_grad_enabled(),
        bidirectional=False, batch_first=False,
    )  # fmt: skip
    return y, (h_n.squeeze(0), c_n.squeeze(0))


def embedding_dropout(
    ids: Tensor, weight: Tensor, drop_p: float, seed: Tensor, padding_idx: int | None = None
) -> Tensor:
    """Look up embeddings with whole words dropped, without a copy of the table.

    Args:
        ids: token ids, any shape, int64.
        weight: embedding table; shape [V, E].
        drop_p: chance that a word's embedding is zero in this whole call, in [0, 1).
        seed: int64 tensor with one element, on weight's device.
        padding_idx: row that gets no gradient from the look-up.

    Returns:
        embedded: shape [*ids.shape, E].

    Raises:
        ValueError: drop_p outside [0, 1).

    Source: Gal, Ghahramani 2016, arXiv:1512.05287; specification in reference.embedding_dropout.
    """
    scale = drop_connect(weight.detach().new_ones(len(weight)), drop_p, seed)
    return F.embedding(ids, weight, padding_idx) * scale[ids].unsqueeze(-1)


def variational_dropout(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Drop features with one draw per row for all time steps.

    Args:
        x: shape [T, B, E].
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).
        seed: int64 tensor with one element, on x's device.

    Returns:
        dropped: shape [T, B, E].

    Raises:
        ValueError: x is not [T, B, E], or drop_p outside [0, 1).
    """
    if x.dim() != 3:
        raise ValueError(f"x: expected shape [T, B, E], found {list(x.shape)}")
    return x * drop_connect(torch.ones_like(x[0], requires_grad=False), drop_p, seed)


def concat_pool(output: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Concatenate the last, the largest and the mean vector over each row's valid positions.

    Args:
        output: shape [B, T, E].
        start: first valid position of each row; int64, shape [B].
        end: one past the last valid position, start < end <= T; int64, shape [B].

    Returns:
        pooled: last, max, mean in this order; shape [B, 3E].

    Raises:
        ValueError: output is not [B, T, E], or start and end are not [B].
    """
    if output.dim() != 3:
        raise ValueError(f"output: expected shape [B, T, E], found {list(output.shape)}")
    for name, positions in (("start", start), ("end", end)):
        if positions.shape != output.shape[:1]:
            found = f"found {list(positions.shape)}"
            raise ValueError(f"{name}: expected shape [{len(output)}], {found}")
    return reference.concat_pool(output, start, end)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    """Return the mean cross-entropy of a linear layer's logits.

    Equivalent to: F.cross_entropy(F.linear(hidden, weight, bias), targets)

    Args:
        hidden: shape [N, E].
        weight: shape [V, E].
        bias: shape [V] or None.
        targets: class of each row, int64, shape [N].
        ignore_index: rows with this target count for nothing.

    Returns:
        loss: scalar, float32 or wider; NaN when every target is ignored.

    Raises:
        ValueError: hidden, weight and targets do not fit.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        found = f"{list(hidden.shape)} and {list(weight.shape)}"
        raise ValueError(f"hidden, weight: expected shapes [N, E] and [V, E], found {found}")
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets: expected shape [{len(hidden)}], found {list(targets.shape)}")
    return reference.linear_cross_entropy(hidden, weight, bias, targets, ignore_index)


def check_drop_p(drop_p: float) -> None:
    """Raise ValueError unless 0 <= drop_p < 1."""
    if not 0.0 <= drop_p < 1.0:
        raise ValueError(f"drop_p: expected a chance in [0, 1), found {drop_p}")


def check_lstm_shapes(x: Tensor, state: State, weights: tuple[Tensor, ...]) -> None:
    """Raise ValueError naming the first argument of lstm whose shape does not fit x and w_hh."""
    if x.dim() != 3 or x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"x: expected shape [T, B, I] with T, B >= 1, found {list(x.shape)}")
    B, H = x.shape[1], weights[1].shape[-1]
    expected = {
        "w_ih": (weights[0], [4 * H, x.shape[2]]),
        "w_hh": (weights[1], [4 * H, H]),
        "b_ih": (weights[2], [4 * H]),
        "b_hh": (weights[3], [4 * H]),
        "h0": (state[0], [B, H]),
        "c0": (state[1], [B, H]),
    }
    for name, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {list(tensor.shape)}")
