"""The project's criterion of accuracy, and the wrong implementations that it must reject.

With e(x) = ||x - exact|| / ||exact|| and exact computed in float64, an implementation may be as
wrong as plain PyTorch in the same dtype, not more: e(fused) <= 2 e(plain) + floor(dtype).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast import reference
from ulmfit_fast.reference.lstm import dropped_weight

# Allowed beyond twice plain PyTorch's own error: 4 eps of float32 and float64, a quarter eps of the
# 16-bit types. Set 2026-11-23 from LSTMs of T = 1..140, H = 64..1152; a TF32 path (3e-4) fails.
FLOOR = {
    torch.float64: 1e-15,
    torch.float32: 5e-7,
    torch.bfloat16: 2e-3,
    torch.float16: 2.5e-4,
}

State = tuple[Tensor, Tensor]
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
#: Takes reference.lstm's arguments (x, state, weights, drop_p, seed, lengths, reverse), in order.
LSTM = Callable[..., tuple[Tensor, State]]


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
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor | None, *rest: Any
) -> tuple[Tensor, State]:
    swapped = []
    for w in (weights[0], dropped_weight(weights[1], drop_p, seed), *weights[2:]):
        i, f, g, o = w.chunk(4)
        swapped.append(torch.cat([i, o, g, f]))
    return reference.lstm(x, state, tuple(swapped), 0.0, None, *rest)


def _drop_cell_gradient(x: Tensor, state: State, *rest: Any) -> tuple[Tensor, State]:
    h0, c0 = state
    return reference.lstm(x, (h0, c0.detach() + 0 * c0), *rest)


def _forget_to_rescale(
    x: Tensor, state: State, weights: Weights, drop_p: float, *rest: Any
) -> tuple[Tensor, State]:
    w_ih, w_hh, *biases = weights
    return reference.lstm(x, state, (w_ih, w_hh * (1 - drop_p), *biases), drop_p, *rest)


def _skip_last_step(*arguments: Any) -> tuple[Tensor, State]:
    y, state_n = reference.lstm(*arguments)
    return torch.cat([y[:-1], torch.zeros_like(y[-1:])]), state_n


def _draw_another_mask(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor, *rest: Any
) -> tuple[Tensor, State]:
    return reference.lstm(x, state, weights, drop_p, seed + 1, *rest)


def _scale_output(*arguments: Any) -> tuple[Tensor, State]:
    y, state_n = reference.lstm(*arguments)
    return y * 0.999, state_n


def _forget_the_mask_of_the_gradient(
    x: Tensor, state: State, weights: Weights, drop_p: float, seed: Tensor, *rest: Any
) -> tuple[Tensor, State]:
    w_ih, w_hh, *biases = weights
    # The values are those of the dropped weight, the gradient is that of a rescaled whole one.
    passes = (w_hh - w_hh.detach()) / (1 - drop_p)
    dropped = reference.drop_connect(w_hh, drop_p, seed).detach() + passes
    return reference.lstm(x, state, (w_ih, dropped, *biases), 0.0, None, *rest)


def _lose_hidden_gradient(x: Tensor, state: State, *rest: Any) -> tuple[Tensor, State]:
    y, (h_n, c_n) = reference.lstm(x, state, *rest)
    return y, (h_n.detach() + 0 * h_n, c_n)


def _ignore_lengths(*arguments: Any) -> tuple[Tensor, State]:
    *rest, _, reverse = arguments
    return reference.lstm(*rest, None, reverse)


def _ignore_reverse(*arguments: Any) -> tuple[Tensor, State]:
    return reference.lstm(*arguments[:-1], False)


def _let_dead_steps_move_the_state(x: Tensor, *arguments: Any) -> tuple[Tensor, State]:
    lengths = arguments[-2]
    y, state_n = _ignore_lengths(x, *arguments)
    return y * _alive(x, lengths), state_n


def _let_gradient_in_at_dead_steps(x: Tensor, *arguments: Any) -> tuple[Tensor, State]:
    lengths = arguments[-2]
    y, state_n = reference.lstm(x, *arguments)
    y_all, _ = _ignore_lengths(x, *arguments)
    return y + (y_all - y_all.detach()) * ~_alive(x, lengths), state_n


def _repeat_last_output_at_dead_steps(x: Tensor, *arguments: Any) -> tuple[Tensor, State]:
    y, (h_n, c_n) = reference.lstm(x, *arguments)
    return torch.where(_alive(x, arguments[-2]), y, h_n), (h_n, c_n)


def _alive(x: Tensor, lengths: Tensor) -> Tensor:
    """Return which steps of each row are within its length; shape [T, B, 1]."""
    return (torch.arange(len(x)).unsqueeze(1) < lengths).unsqueeze(2)


#: Wrong LSTMs: the criterion must reject every one in float32, given lengths and drop_p > 0.
MUTANTS: dict[str, LSTM] = {
    "gates f and o swapped": _swap_forget_and_output_gates,
    "gradient of c0 lost": _drop_cell_gradient,
    "gradient of h_n lost": _lose_hidden_gradient,
    "mask not rescaled": _forget_to_rescale,
    "last time step skipped": _skip_last_step,
    "another mask": _draw_another_mask,
    "dw_hh not masked": _forget_the_mask_of_the_gradient,
    "lengths ignored": _ignore_lengths,
    "reverse ignored": _ignore_reverse,
    "dead steps move the state": _let_dead_steps_move_the_state,
    "gradient enters at dead steps": _let_gradient_in_at_dead_steps,
    "last output repeated at dead steps": _repeat_last_output_at_dead_steps,
    "output scaled by 0.999": _scale_output,
}
#: Those too gross to hide in bfloat16's rounding.
GROSS_MUTANTS = tuple(name for name in MUTANTS if name != "output scaled by 0.999")
