"""One weight-dropped LSTM layer over a whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast import _native, reference
from ulmfit_fast.functional.masks import check_drop_p, check_seed, check_tensor

State = tuple[Tensor, Tensor]
#: w_ih [4H, I], w_hh [4H, H], b_ih [4H] and b_hh [4H], or both None.
LSTMWeights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
LSTM_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
            Of x's dtype, or all float32 beside 16-bit x: products take them rounded, and their
            gradients are float32.
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


def check_lstm(
    x: Tensor,
    state: State | None,
    weights: LSTMWeights,
    drop_p: float,
    seed: Tensor | None,
    lengths: Tensor | None = None,
    n_states: int | None = None,
) -> None:
    """Raise ValueError naming the first argument of lstm that does not fit x and w_hh.

    x, state, weights, drop_p, seed and lengths are those of lstm; n_states: rows of the state,
    where they are not those of x.
    """
    check_drop_p(drop_p)
    _check_kinds(x, state, weights, lengths)
    if x.dim() != 3 or x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"x: expected shape [T, B, I] with T, B >= 1, found {list(x.shape)}")
    if x.layout != torch.strided:
        raise ValueError(f"x: expected a dense tensor, found {x.layout}; call x.to_dense()")
    if x.dtype not in LSTM_DTYPES:
        known = ", ".join(str(t).removeprefix("torch.") for t in LSTM_DTYPES)
        raise NotImplementedError(f"x: the LSTM kernels know {known}, found {x.dtype}; convert it")
    if (weights[2] is None) != (weights[3] is None):
        missing = "b_ih" if weights[2] is None else "b_hh"
        raise ValueError(f"{missing}: expected both biases or neither, found None")
    if weights[1].dim() != 2 or weights[1].shape[1] == 0:
        found = list(weights[1].shape)
        raise ValueError(f"w_hh: expected shape [4H, H] with H >= 1, found {found}")
    _check_fit(x, state, weights, n_states)
    if seed is not None:
        check_seed(seed, "x", x.device)
    elif drop_p > 0:
        raise ValueError(f"seed: a tensor is needed where drop_p is {drop_p}")
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], x.device)


def _check_kinds(x: object, state: object, weights: object, lengths: object) -> None:
    """Raise ValueError naming the first argument that is no dense tensor, or none where it must."""
    if not isinstance(x, Tensor):
        check_tensor("x", x)
    if not isinstance(weights, tuple | list) or len(weights) != 4:
        found = len(weights) if isinstance(weights, tuple | list) else type(weights).__name__
        raise ValueError(f"weights: expected (w_ih, w_hh, b_ih, b_hh), found {found}")
    if state is not None and (not isinstance(state, tuple | list) or len(state) != 2):
        found = len(state) if isinstance(state, tuple | list) else type(state).__name__
        raise ValueError(f"state: expected (h0, c0) or None, found {found}")
    named = dict(zip(("w_ih", "w_hh", "b_ih", "b_hh"), weights, strict=True))
    if state is not None:
        named |= zip(("h0", "c0"), state, strict=True)
    if lengths is not None:
        named["lengths"] = lengths
    for name, tensor in named.items():
        if tensor is not None or name not in ("b_ih", "b_hh"):
            check_tensor(name, tensor)


def _check_fit(x: Tensor, state: State | None, weights: LSTMWeights, n_states: int | None) -> None:
    """Raise ValueError naming the first tensor whose shape, device or dtype does not fit x."""
    (_, B, I), H = x.shape, weights[1].shape[1]
    expected: dict[str, tuple[Tensor | None, list[int]]] = {
        "w_ih": (weights[0], [4 * H, I]),
        "w_hh": (weights[1], [4 * H, H]),
        "b_ih": (weights[2], [4 * H]),
        "b_hh": (weights[3], [4 * H]),
        "h0": (state and state[0], [n_states or B, H]),
        "c0": (state and state[1], [n_states or B, H]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {list(tensor.shape)}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected on {x.device} beside x, found on {tensor.device}")
        wide = reference.accumulation_dtype(x.dtype)
        if name == "w_ih" and tensor.dtype in (x.dtype, wide):
            continue
        like, of_weights = ("x", x.dtype), name in ("w_hh", "b_ih", "b_hh")
        if of_weights:
            like = ("w_ih", weights[0].dtype)
        if tensor.dtype != like[1] and not (name == "c0" and tensor.dtype == wide):
            raise ValueError(f"{name}: expected {like[1]} like {like[0]}, found {tensor.dtype}")


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
