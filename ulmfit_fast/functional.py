"""The documented functions: check the arguments, then call the operation.

Sizes as in reference/. Every random mask is a function of a seed tensor; draw_seeds makes seeds
from PyTorch's generator of the device, so torch.manual_seed fixes every mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ulmfit_fast import _native, reference

State = tuple[Tensor, Tensor]
#: w_ih [4H, I], w_hh [4H, H], b_ih [4H] and b_hh [4H], or both None.
LSTMWeights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
LSTM_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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

    Numbers: the same bits on every backend. Layout of the mask: reference/masks.py.
    """
    check_drop_p(drop_p)
    if not weight.is_floating_point():
        raise ValueError(f"weight: expected a floating-point tensor, found {weight.dtype}")
    check_seed(seed, "weight", weight.device)
    _native.require_kernel("drop_connect", weight.device)
    dropped: Tensor = torch.ops.ulmfit_fast.drop_connect(weight, drop_p, seed)
    return dropped


def lstm(
    x: Tensor,
    state: State | None,
    weights: LSTMWeights,
    drop_p: float = 0.0,
    seed: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run one LSTM layer whose recurrent weights are dropped once for the whole sequence.

    Equivalent to: torch.nn.LSTM(I, H) with weight_hh_l0 replaced by drop_connect(weight_hh_l0).

    Args:
        x: input; shape [T, B, I]; float32, bfloat16, float16 or float64.
        state: h0 and c0, each of shape [B, H]; None: zeros. c0 may be float32 beside 16-bit x.
        weights: w_ih [4H, I], w_hh [4H, H], b_ih [4H] and b_hh [4H], or both None; gates i f g o.
        drop_p: chance that an entry of w_hh is zero for this whole sequence, in [0, 1).
        seed: int64 tensor with one element, on x's device; None only where drop_p is 0.
        lengths: steps of each row, in 1..T; int64, shape [B]; None: all T. Beyond its length a
            row's y is 0 and its state stands still. On the CPU the values are checked; on another
            device, where looking would wait for it, those outside 0..T mean the nearer of the two.
        reverse: run from each row's last step to its first.

    Returns:
        y: hidden states; shape [T, B, H], dtype of x.
        state: h and c after the last step; each of shape [B, H], dtypes of the initial state.

    Raises:
        ValueError: an argument whose shape, dtype or device does not fit x and w_hh, an empty
            sequence or batch, drop_p outside [0, 1), lengths outside 1..T, a missing seed.
        NotImplementedError: a dtype that the kernels do not know; a second derivative.
        RuntimeError: no kernel for x's device; the message says why and what to run.

    Numbers: sums and cell state in float32 (float64 for float64). Gradients of everything but seed
        and lengths, once. The same bits for the same seed, machine and number of threads.
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182, section 2.
    """
    check_lstm(x, state, weights, drop_p, seed, lengths)
    w_ih, w_hh, b_ih, b_hh = weights
    if state is None:
        h0 = x.new_zeros(x.shape[1], w_hh.shape[1])
        state = (h0, h0.clone())
    if lengths is not None:
        lengths = lengths.to(x.device, non_blocking=True)
    bias = None if b_ih is None or b_hh is None else b_ih + b_hh
    arguments = (x, w_ih, w_hh, bias, *state)
    save = torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in arguments)
    _native.require_kernel("lstm_forward", x.device)
    y, h_n, c_n, _, _ = torch.ops.ulmfit_fast.lstm_forward(
        *arguments, lengths, seed if drop_p > 0 else None, drop_p, reverse, save
    )
    return y, (h_n, c_n)


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


def check_seed(seed: object, beside: str, device: torch.device) -> None:
    """Raise ValueError unless seed is an int64 tensor with one element on a device."""
    if not isinstance(seed, Tensor):
        found = f"found {type(seed).__name__}; torch.tensor({seed!r}) makes one"
        raise ValueError(f"seed: expected an int64 tensor with one element, {found}")
    if seed.dtype != torch.int64 or seed.numel() != 1:
        found = f"{seed.dtype} {list(seed.shape)}"
        raise ValueError(f"seed: expected an int64 tensor with one element, found {found}")
    if seed.device != device:
        raise ValueError(f"seed: expected on {device} beside {beside}, found on {seed.device}")


def check_lstm(
    x: Tensor,
    state: State | None,
    weights: LSTMWeights,
    drop_p: float,
    seed: Tensor | None,
    lengths: Tensor | None,
) -> None:
    """Raise ValueError naming the first argument of lstm that does not fit x and w_hh."""
    check_drop_p(drop_p)
    if x.dim() != 3 or x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"x: expected shape [T, B, I] with T, B >= 1, found {list(x.shape)}")
    if x.layout != torch.strided:
        raise ValueError(f"x: expected a dense tensor, found {x.layout}; call x.to_dense()")
    if x.dtype not in LSTM_DTYPES:
        known = ", ".join(str(t).removeprefix("torch.") for t in LSTM_DTYPES)
        raise NotImplementedError(f"x: the LSTM kernels know {known}, found {x.dtype}; convert it")
    if len(weights) != 4:
        raise ValueError(f"weights: expected (w_ih, w_hh, b_ih, b_hh), found {len(weights)}")
    if state is not None and len(state) != 2:
        raise ValueError(f"state: expected (h0, c0) or None, found {len(state)}")
    if (weights[2] is None) != (weights[3] is None):
        missing = "b_ih" if weights[2] is None else "b_hh"
        raise ValueError(f"{missing}: expected both biases or neither, found None")
    if weights[1].dim() != 2 or weights[1].shape[1] == 0:
        found = list(weights[1].shape)
        raise ValueError(f"w_hh: expected shape [4H, H] with H >= 1, found {found}")
    (T, B, I), H = x.shape, weights[1].shape[1]
    expected: dict[str, tuple[Tensor | None, list[int]]] = {
        "w_ih": (weights[0], [4 * H, I]),
        "w_hh": (weights[1], [4 * H, H]),
        "b_ih": (weights[2], [4 * H]),
        "b_hh": (weights[3], [4 * H]),
        "h0": (state and state[0], [B, H]),
        "c0": (state and state[1], [B, H]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {list(tensor.shape)}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected on {x.device} beside x, found on {tensor.device}")
        wide = reference.accumulation_dtype(x.dtype)
        if tensor.dtype != x.dtype and not (name == "c0" and tensor.dtype == wide):
            raise ValueError(f"{name}: expected {x.dtype} like x, found {tensor.dtype}")
    if seed is not None:
        check_seed(seed, "x", x.device)
    elif drop_p > 0:
        raise ValueError(f"seed: a tensor is needed where drop_p is {drop_p}")
    if lengths is not None:
        check_lengths(lengths, T, B, x.device)


def check_lengths(lengths: Tensor, T: int, B: int, device: torch.device) -> None:
    """Raise ValueError unless lengths is [B], int64, and, where it can be seen, within 1..T."""
    if lengths.dtype != torch.int64 or list(lengths.shape) != [B]:
        found = f"{lengths.dtype} {list(lengths.shape)}"
        raise ValueError(f"lengths: expected an int64 tensor of shape [{B}], found {found}")
    if lengths.device.type != "cpu" and lengths.device != device:
        raise ValueError(f"lengths: expected on the CPU or {device}, found on {lengths.device}")
    if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(value) for value in lengths.aminmax())
        if low < 1 or high > T:
            raise ValueError(f"lengths: expected values in 1..{T}, found {low}..{high}")
