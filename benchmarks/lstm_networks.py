"""LSTM layers and stacks that a benchmark can call: ours, and what they are held against.

Sizes: T time steps, B batch rows, I input features, H hidden units. Every implementation gets its
weights from torch.nn.LSTM and draws its masks inside the call.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from unittest import mock

import torch
import torch.nn.functional as F
from machine import ROOT, free_bytes
from torch import Tensor, nn

from ulmfit_fast import _native, functional, reference
from ulmfit_fast.kernels import lstm as lstm_kernels

sys.path.append(str(ROOT / "tests"))
import lstm_calls
import numerics

DROP_P = 0.5
#: Size of the first input and of the last output of an AWD-LSTM: its embedding.
EMBEDDING = 400
#: Time steps of the check before the timing: float64 at the real B and H costs seconds a step.
CHECKED_STEPS = 3
State = tuple[Tensor, Tensor]
#: Takes x [T, B, I] and the initial state, each of [B, H]; returns y [T, B, H].
Layer = Callable[[Tensor, State], Tensor]
#: Returns a seed: functional.draw_seeds, or a constant where masks have to be known.
Draw = Callable[[torch.device], Tensor]


@dataclass(frozen=True)
class Point:
    """Sizes of a layer H -> H, or of an AWD-LSTM's stack EMBEDDING -> H -> H -> EMBEDDING."""

    T: int
    B: int
    H: int
    stack: bool = False

    def __str__(self) -> str:
        """Return the id that pytest shows."""
        return f"{'stack' if self.stack else 'layer'}-T{self.T}-B{self.B}-H{self.H}"

    @property
    def op(self) -> str:
        """What the report calls it."""
        return "lstm stack" if self.stack else "lstm"

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Return (I, H) of each layer."""
        H = self.H
        return ((EMBEDDING, H), (H, H), (H, EMBEDDING)) if self.stack else ((H, H),)

    def sizes(self) -> dict[str, int]:
        """Return legend letter -> size."""
        return {"T": self.T, "B": self.B, "H": self.H}

    def n_flops(self, backward: bool) -> int:
        """Return the operations of all matrix products; backward has two for each of forward."""
        forward = sum(8 * self.T * self.B * H * (n_inputs + H) for n_inputs, H in self.layers)
        return (3 if backward else 1) * forward

    def n_bytes(self, dtype: torch.dtype, backward: bool) -> int:
        """Return the bytes that must be read and written if every weight is read once a pass."""
        size, wide = dtype.itemsize, reference.accumulation_dtype(dtype).itemsize
        total, TB = 0, self.T * self.B
        for n_inputs, H in self.layers:
            weights = 4 * H * (n_inputs + H + 2)
            x, y, state = TB * n_inputs, TB * H, 2 * self.B * H
            total += size * (x + weights + y + 2 * state)
            if backward:
                saved = 4 * y * size + y * wide  # gates and c, written once and read once
                # Reads dy, x, y and the weights; writes dx, the gradients of weights and state.
                total += 2 * saved + size * (2 * y + 2 * x + 2 * weights + 2 * state)
        return total

    def n_bytes_inputs(self, dtype: torch.dtype) -> int:
        """Return the bytes of x and of all weights."""
        weights = sum(4 * H * (n_inputs + H + 2) for n_inputs, H in self.layers)
        return dtype.itemsize * (self.T * self.B * self.layers[0][0] + weights)

    def n_bytes_resident(self, dtype: torch.dtype, backward: bool) -> int:
        """Return about how much memory one call needs; only to leave out what cannot fit."""
        rows = sum(n_inputs + (16 if backward else 6) * H for n_inputs, H in self.layers)
        weights = sum(8 * H * (n_inputs + H) for n_inputs, H in self.layers)
        return dtype.itemsize * (self.T * self.B * rows + 2 * weights)


def _ours(lstm: nn.LSTM, drop_p: float, draw: Draw) -> tuple[Layer, list[Tensor]]:
    weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0

    def layer(x: Tensor, state: State) -> Tensor:
        return functional.lstm(x, state, weights, drop_p, draw(x.device))[0]

    return layer, list(weights)


def _reference(lstm: nn.LSTM, drop_p: float, draw: Draw) -> tuple[Layer, list[Tensor]]:
    weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0

    def layer(x: Tensor, state: State) -> Tensor:
        return reference.lstm(x, state, weights, drop_p, draw(x.device))[0]

    return layer, list(weights)


def _torch(lstm: nn.LSTM, drop_p: float, draw: Draw) -> tuple[Layer, list[Tensor]]:
    w_ih, w_hh, *biases = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0

    def layer(x: Tensor, state: State) -> Tensor:
        h0, c0 = (s.unsqueeze(0) for s in state)
        # What nn.LSTM.forward calls. The dropped weight lies apart from the others, so cuDNN has
        # all of them copied into one buffer first: a cost of weight drop, and timed.
        weights = [w_ih, F.dropout(w_hh, drop_p), *biases]
        return torch.lstm(x, (h0, c0), weights, True, 1, 0.0, lstm.training, False, False)[0]

    return layer, [w_ih, w_hh, *biases]


def _torch_undropped(lstm: nn.LSTM, drop_p: float, draw: Draw) -> tuple[Layer, list[Tensor]]:
    def layer(x: Tensor, state: State) -> Tensor:
        y: Tensor = lstm(x, tuple(s.unsqueeze(0) for s in state))[0]
        return y

    return layer, [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0]


def _fastai(lstm: nn.LSTM, drop_p: float, draw: Draw) -> tuple[Layer, list[Tensor]]:
    from fastai.text.models.awdlstm import WeightDropout

    dropped = WeightDropout(lstm, drop_p)

    def layer(x: Tensor, state: State) -> Tensor:
        y: Tensor = dropped(x, tuple(s.unsqueeze(0) for s in state))[0]
        return y

    weights = [lstm.weight_ih_l0, dropped.weight_hh_l0_raw, lstm.bias_ih_l0, lstm.bias_hh_l0]
    return layer, weights


@dataclass(frozen=True)
class Implementation:
    """One way to compute the layer.

    Args:
        what: the expression that is timed.
        build: makes the layer, with its weights in nn.LSTM's order, out of an nn.LSTM.
        seeded: whether its masks are functions of a seed, so that they can be checked dropped.
    """

    what: str
    build: Callable[[nn.LSTM, float, Draw], tuple[Layer, list[Tensor]]]
    seeded: bool = False


IMPLEMENTATIONS = {
    "ulmfit_fast": Implementation("functional.lstm, weight drop 0.5", _ours, seeded=True),
    "triton": Implementation("functional.lstm on its Triton path", _ours, seeded=True),
    "torch": Implementation("nn.LSTM on F.dropout(weight_hh, 0.5)", _torch),
    "torch_undropped": Implementation("nn.LSTM without weight drop", _torch_undropped),
    "fastai": Implementation("fastai's WeightDropout(nn.LSTM, 0.5)", _fastai),
    "reference": Implementation("reference.lstm, weight drop 0.5", _reference, seeded=True),
}


@contextmanager
def kernels_of(impl: str) -> Iterator[None]:
    """Have calls inside run on Triton where that is what is measured."""
    if impl != "triton":
        yield
        return
    with mock.patch.object(lstm_kernels, "why_not_persistent", return_value="measured apart"):
        yield


def why_left_out(impl: str, device: str) -> str | None:
    """Return why an implementation cannot be measured here; None where it can."""
    if impl == "triton" and device != "cuda":
        return "needs --device cuda"
    if impl in ("ulmfit_fast", "triton"):
        reason = _native.why_missing("lstm_forward", device)
        return reason and f"no kernel to measure: {reason}"
    if impl == "fastai" and find_spec("fastai") is None:
        return "fastai is not installed (requirements/peers.txt)"
    return None


def why_too_large(point: Point, dtype: torch.dtype, backward: bool, device: str) -> str | None:
    """Return why a point does not fit into the memory that is free; None where it does."""
    needed, free = point.n_bytes_resident(dtype, backward), free_bytes(device)
    if needed <= free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def build_call(
    impl: str, point: Point, dtype: torch.dtype, backward: bool, device: str
) -> Callable[[], object]:
    """Return a call of a new network on random inputs.

    Args:
        impl: key of IMPLEMENTATIONS.
        point: sizes.
        dtype: of everything.
        backward: whether the call also computes the gradients of x and of every weight.
        device: "cpu" or "cuda".
    """
    layers, weights, states = [], [], []
    for n_inputs, H in point.layers:
        lstm = nn.LSTM(n_inputs, H, device=device, dtype=dtype)
        layer, parameters = IMPLEMENTATIONS[impl].build(lstm, DROP_P, draw_seed)
        layers.append(layer)
        weights += parameters
        zeros = torch.zeros(point.B, H, device=device, dtype=dtype)
        states.append((zeros, zeros.clone()))
    I_first, H_last = point.layers[0][0], point.layers[-1][1]
    x = torch.randn(point.T, point.B, I_first, device=device).to(dtype).requires_grad_(backward)
    dy = torch.randn(point.T, point.B, H_last, device=device).to(dtype)

    def forward() -> Tensor:
        y = x
        for layer, state in zip(layers, states, strict=True):
            y = layer(y, state)
        return y

    def forward_only() -> Tensor:
        with torch.no_grad(), kernels_of(impl):
            return forward()

    def forward_and_backward() -> tuple[Tensor, ...]:
        with kernels_of(impl):
            return torch.autograd.grad(forward(), [x, *weights], dy)

    return forward_and_backward if backward else forward_only


def draw_seed(device: torch.device) -> Tensor:
    """Return a fresh seed of one layer."""
    return functional.draw_seeds(1, device)


def check(impl: str, point: Point, dtype: torch.dtype, device: str) -> float:
    """Hold every layer of a point to the project's criterion, at CHECKED_STEPS time steps.

    Implementations whose masks come from torch's generator are checked without weight drop.

    Returns:
        error: the largest distance of y and the gradients from float64.

    Raises:
        AssertionError: it is further from float64 than the criterion allows: do not time it.
    """
    T = min(point.T, CHECKED_STEPS)
    with kernels_of(impl):
        return max(_check_layer(impl, (T, point.B, *size), dtype, device) for size in point.layers)


def check_or_leave_out(
    impl: str, point: Point, dtype: torch.dtype, device: str
) -> tuple[float, str | None]:
    """Return the error of an implementation, and why it is not timed: None if it passes check.

    A wrong kernel of ours raises. A peer that is less exact than the criterion allows is not the
    same work: it is left out, with the reason.
    """
    try:
        return check(impl, point, dtype, device), None
    except AssertionError as wrong:
        if impl == "ulmfit_fast":
            raise
        return math.inf, f"less exact than the criterion allows: {wrong}"


@functools.cache
def _check_layer(
    impl: str, shape: tuple[int, int, int, int], dtype: torch.dtype, device: str
) -> float:
    implementation = IMPLEMENTATIONS[impl]
    case = lstm_calls.Case(
        shape, dtype, drop_p=DROP_P if implementation.seeded else 0.0, through=("y",)
    )
    # Small layers are repeated, as in the tests: the rounding of one number is luck.
    n_draws = math.ceil(lstm_calls.N_COMPARED / (shape[1] * shape[3]))
    draws = [_run_checked(implementation, lstm_calls.draw(case, i), device) for i in range(n_draws)]
    worst = 0.0
    for name in draws[0][0]:
        found, plain, exact = (torch.stack([draw[way][name] for draw in draws]) for way in range(3))
        numerics.assert_no_worse(f"{impl} {name}", found, plain, exact, dtype)
        worst = max(worst, numerics.relative_error(found, exact))
    return worst


def _run_checked(
    implementation: Implementation, call: lstm_calls.Call, device: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return y and gradients by an implementation, by plain PyTorch and in float64."""
    names = [f"d{name}" for name in lstm_calls.WEIGHTS]
    (x, h0, c0), dtype = (call.tensors[k] for k in ("x", "h0", "c0")), call.tensors["x"].dtype
    lstm = nn.LSTM(x.shape[2], h0.shape[1], device=device, dtype=dtype)
    layer, weights = implementation.build(
        lstm, call.drop_p, lambda where: lstm_calls.SEED.to(where)
    )
    with torch.no_grad():
        for weight, name in zip(weights, lstm_calls.WEIGHTS, strict=True):
            weight.copy_(call.tensors[name])
    inputs = [t.to(device).requires_grad_() for t in (x, h0, c0)]
    y = layer(inputs[0], (inputs[1], inputs[2]))
    grads = torch.autograd.grad(y, [*inputs, *weights], call.cotangents["y"].to(device))
    found = dict(zip(["dx", "dh0", "dc0", *names], (g.cpu() for g in grads), strict=True))
    found["y"] = y.detach().cpu()
    exact = lstm_calls.run(reference.lstm, call.to(torch.float64))
    plain = lstm_calls.run_plain(call, exact)
    return found, {name: plain[name] for name in found}, {name: exact[name] for name in found}
