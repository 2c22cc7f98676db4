"""The project's criterion of accuracy, and the wrong implementations that it must reject.

With e(x) = ||x - exact|| / ||exact|| and exact computed in float64, an implementation may be as
wrong as plain PyTorch in the same dtype, not more: e(fused) <= 2 e(plain) + floor(dtype).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ulmfit_fast import reference

# Allowed beyond twice plain PyTorch's own error: 4 eps of float32 and float64, a quarter eps of the
# 16-bit types. Set 2026-11-23 from LSTMs of T = 1..140, H = 64..1152; a TF32 path (3e-4) fails.
FLOOR = {
    torch.float64: 1e-15,
    torch.float32: 5e-7,
    torch.bfloat16: 2e-3,
    torch.float16: 2.5e-4,
}

State = tuple[Tensor, Tensor]
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
LSTM = Callable[[Tensor, State, Weights, float, Tensor], tuple[Tensor, State]]


def relative_error(x: Tensor, exact: Tensor) -> float:
    """Return ||x - exact|| / ||exact|| (||x|| where exact is 0); infinite if x is not finite."""
    assert x.shape == exact.shape, f"shape {list(x.shape)}, expected {list(exact.shape)}"
    x64, exact64 = x.detach().double().cpu(), exact.detach().double().cpu()
    assert bool(exact64.isfinite().all()), "the exact result is not finite"
    if not bool(x64.isfinite().all()):
        return float("inf")
    norm = float(exact64.norm())
    return float((x64 - exact64).norm()) / norm if norm > 0 else float(x64.norm())


def worst_index(x: Tensor, exact: Tensor) -> tuple[int, ...]:
    """Return the index of the largest difference; NaN counts as the largest."""
    difference = (x.detach().double().cpu() - exact.detach().double().cpu()).abs()
    flat = int(torch.nan_to_num(difference, nan=torch.inf).argmax())
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), exact.shape))


def assert_no_worse(
    name: str, fused: Tensor, plain: Tensor, exact: Tensor, dtype: torch.dtype
) -> None:
    """Fail unless fused is at most twice as far from exact as plain is, plus the floor of dtype.

    Args:
        name: what is compared, for the message.
        fused: result of the implementation under test.
        plain: result of plain PyTorch in the same dtype.
        exact: result of plain PyTorch in float64 from the same inputs.
        dtype: storage type of fused and plain; chooses the floor.
    """
    error = relative_error(fused, exact)
    allowed = 2 * relative_error(plain, exact) + FLOOR[dtype]
    if error <= allowed:
        return
    index = worst_index(fused, exact)
    found, expected = float(fused.detach()[index]), float(exact.detach()[index])
    raise AssertionError(
        f"{name} ({dtype}): error {error:.3g}, allowed {allowed:.3g}; worst at {index}: "
        f"{found:.9g}, exact {expected:.9g}"
    )


def _swap_forget_and_output_gates(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor
) -> tuple[Tensor, State]:
    w_ih, w_hh, b_ih, b_hh = weights
    w_hh = reference.drop_connect(w_hh, drop_p, seed)
    swapped = []
    for w in (w_ih, w_hh, b_ih, b_hh):
        i, f, g, o = w.chunk(4)
        swapped.append(torch.cat([i, o, g, f]))
    a, b, c, d = swapped
    return reference.lstm(x, state, (a, b, c, d), 0.0, seed)


def _drop_cell_gradient(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor
) -> tuple[Tensor, State]:
    h0, c0 = state
    return reference.lstm(x, (h0, c0.detach() + 0 * c0), weights, drop_p, seed)


def _forget_to_rescale(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor
) -> tuple[Tensor, State]:
    w_ih, w_hh, b_ih, b_hh = weights
    return reference.lstm(x, state, (w_ih, w_hh * (1 - drop_p), b_ih, b_hh), drop_p, seed)


def _skip_last_step(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor
) -> tuple[Tensor, State]:
    y, (h, c) = reference.lstm(x, state, weights, drop_p, seed)
    return torch.cat([y[:-1], torch.zeros_like(y[-1:])]), (h, c)


def _draw_another_mask(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor
) -> tuple[Tensor, State]:
    return reference.lstm(x, state, weights, drop_p, seed + 1)


def _scale_output(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor
) -> tuple[Tensor, State]:
    y, state_n = reference.lstm(x, state, weights, drop_p, seed)
    return y * 0.999, state_n


#: Wrong LSTMs with reference.lstm's signature: the criterion must reject every one in float32.
MUTANTS: dict[str, LSTM] = {
    "gates f and o swapped": _swap_forget_and_output_gates,
    "gradient of c0 lost": _drop_cell_gradient,
    "mask not rescaled": _forget_to_rescale,
    "last time step skipped": _skip_last_step,
    "another mask": _draw_another_mask,
    "output scaled by 0.999": _scale_output,
}
#: Those too gross to hide in bfloat16's rounding.
GROSS_MUTANTS = tuple(name for name in MUTANTS if name != "output scaled by 0.999")
