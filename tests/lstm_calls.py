"""Calls of one LSTM layer, run by an implementation under test, plain PyTorch and float64.

Plain PyTorch means the less exact of two: autograd through reference.lstm, which keeps activated
gates in float32, and reference.lstm_backward, which reads them as the contract stores them, in x's
dtype. Only the second is what a kernel can reach in 16 bits, and nn.LSTM stores them so too. For
bfloat16 dx at T 20, B 12, I 100, H 130 the errors are 4.3e-3, 6.2e-3 and, of nn.LSTM, 6.5e-3
(2026-11-23). float64 has nothing wider to be held against: what float32 loses, in units of eps, is
allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from numerics import LSTM, assert_no_worse, relative_error
from torch import Tensor

from ulmfit_fast import reference

SEED = torch.tensor([20_261_123 + (5 << 40)])
STATE = ("h0", "c0")
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh")
OUTPUTS = ("y", "h_n", "c_n")
#: The rounding of one number is luck: small layers are drawn until about so many are compared.
N_COMPARED = 64


@dataclass(frozen=True)
class Case:
    """One kind of call: what it is given and through which outputs a gradient comes back."""

    shape: tuple[int, int, int, int]  # T, B, I, H
    dtype: torch.dtype = torch.float32
    scale: float = 1.0  # of x, state and biases: 8 saturates gates
    drop_p: float = 0.5
    lengths: tuple[int, ...] | str | None = None  # "some": 1, T and others between
    reverse: bool = False
    bias: bool = True
    wide_c0: bool = False  # c0 in float32 beside 16 bits
    layout: str = "contiguous"
    through: tuple[str, ...] = OUTPUTS

    def __str__(self) -> str:
        """Return a short name for pytest: what differs from the defaults."""
        parts = ["T{}-B{}-I{}-H{}".format(*self.shape), str(self.dtype).removeprefix("torch.")]
        plain = Case(self.shape, self.dtype)
        changed = {k: v for k, v in vars(self).items() if v != getattr(plain, k)}
        return "-".join([*parts, *(f"{k}={v}" for k, v in changed.items())])


@dataclass(frozen=True)
class Call:
    """Arguments of one call and the gradients that flow back into its outputs."""

    tensors: dict[str, Tensor]  # x, h0, c0, w_ih, w_hh and, with bias, b_ih, b_hh
    cotangents: dict[str, Tensor]  # of the outputs in Case.through
    lengths: Tensor | None
    drop_p: float
    reverse: bool

    def to(self, dtype: torch.dtype) -> Call:
        """Return the same call in another dtype."""
        tensors, cotangents = (
            {name: t.to(dtype) for name, t in named.items()}
            for named in (self.tensors, self.cotangents)
        )
        return replace(self, tensors=tensors, cotangents=cotangents)

    def leaves(self) -> dict[str, Tensor]:
        """Return the tensors as leaves of a new graph, in the strides that they have."""
        return {name: t.detach().requires_grad_() for name, t in self.tensors.items()}

    def arguments(self, tensors: dict[str, Tensor] | None = None) -> tuple[object, ...]:
        """Return the arguments of reference.lstm and functional.lstm, by position."""
        t = tensors or self.tensors
        weights = tuple(t.get(name) for name in WEIGHTS)
        seed = SEED if self.drop_p > 0 else None
        state = (t["h0"], t["c0"])
        return t["x"], state, weights, self.drop_p, seed, self.lengths, self.reverse

    def forward_arguments(self, save: bool = True) -> tuple[object, ...]:
        """Return the arguments of the op lstm_forward."""
        x, state, (w_ih, w_hh, b_ih, b_hh), drop_p, seed, lengths, reverse = self.arguments()
        bias = None if b_ih is None else b_ih + b_hh
        return x, w_ih, w_hh, bias, *state, lengths, seed, drop_p, reverse, save

    def backward_arguments(self, need_dx: bool = True, need_dw: bool = True) -> tuple[object, ...]:
        """Return the arguments of the op lstm_backward, what was saved from the reference."""
        x, w_ih, w_hh, _, h0, c0, lengths, seed, drop_p, reverse, _ = self.forward_arguments()
        y, _, _, c, gates = reference.lstm_forward(*self.forward_arguments())
        grads = (self.cotangents[name] for name in OUTPUTS)
        saved = (x, w_ih, w_hh, h0, c0, y, c, gates)
        return *grads, *saved, lengths, seed, drop_p, reverse, need_dx, need_dw


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values contiguous, dense but transposed, or cut from a larger tensor."""
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided":
        buffer = tensor.new_full([size + 3 for size in tensor.shape], torch.nan)
        inner = buffer[tuple(slice(1, size + 1) for size in tensor.shape)]
        return inner.copy_(tensor)
    return tensor


def draw_lengths(case: Case, generator: torch.Generator) -> Tensor | None:
    """Return the lengths a case asks for; "some" has a 1 and a T wherever there is room."""
    if case.lengths != "some":
        return None if case.lengths is None else torch.tensor(case.lengths)
    T, B = case.shape[:2]
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0], lengths[-1] = 1, T
    return lengths


def draw(case: Case, index: int = 0) -> Call:
    """Draw the inputs of a case, representable in float32, as every dtype can then be compared."""
    T, B, n_inputs, H = case.shape
    generator = torch.Generator().manual_seed(index + 7 * T + 100 * B + 1000 * n_inputs + 9000 * H)

    def random(shape: tuple[int, ...], scale: float, dtype: torch.dtype = case.dtype) -> Tensor:
        drawn = torch.randn(shape, generator=generator) * scale
        return drawn.to(dtype)

    c_dtype = reference.accumulation_dtype(case.dtype) if case.wide_c0 else case.dtype
    tensors = {
        "x": random((T, B, n_inputs), case.scale),
        "h0": random((B, H), case.scale),
        "c0": random((B, H), case.scale, c_dtype),
        "w_ih": random((4 * H, n_inputs), n_inputs**-0.5),
        "w_hh": random((4 * H, H), H**-0.5),
    }
    if case.bias:
        tensors |= {name: random((4 * H,), 0.5 * case.scale) for name in ("b_ih", "b_hh")}
    tensors = {name: lay_out(t, case.layout) for name, t in tensors.items()}
    cotangents = {
        "y": random((T, B, H), 1.0),
        "h_n": random((B, H), 1.0),
        "c_n": random((B, H), 1.0, c_dtype),
    }
    cotangents = {name: cotangents[name] for name in case.through}
    lengths = draw_lengths(case, generator)
    return Call(tensors, cotangents, lengths, case.drop_p, case.reverse)


def run(lstm: LSTM, call: Call) -> dict[str, Tensor]:
    """Return the outputs of an LSTM and, named d..., the gradients of everything it was given."""
    leaves = call.leaves()
    y, (h_n, c_n) = lstm(*call.arguments(leaves))
    outputs = dict(zip(OUTPUTS, (y, h_n, c_n), strict=True))
    grads = torch.autograd.grad(
        [outputs[name] for name in call.cotangents],
        list(leaves.values()),
        list(call.cotangents.values()),
    )
    named = {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {**{name: output.detach() for name, output in outputs.items()}, **named}


def run_by_hand(call: Call) -> dict[str, Tensor]:
    """Return what run returns, by reference.lstm_forward and reference.lstm_backward."""
    y, h_n, c_n, _, _ = reference.lstm_forward(*call.forward_arguments())
    outputs = {"y": y, "h_n": h_n, "c_n": c_n}
    zeros = {name: torch.zeros_like(output) for name, output in outputs.items()}
    whole = replace(call, cotangents={**zeros, **call.cotangents})
    dx, dw_ih, dw_hh, dbias, dh0, dc0 = reference.lstm_backward(*whole.backward_arguments())
    named = {"dx": dx, "dh0": dh0, "dc0": dc0, "dw_ih": dw_ih, "dw_hh": dw_hh}
    if "b_ih" in call.tensors:
        named |= {"db_ih": dbias, "db_hh": dbias}
    return {**outputs, **named}


def run_plain(call: Call, exact: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return plain PyTorch's results in the dtype of a call: of two ways the less exact."""
    is_double = call.tensors["x"].dtype == torch.float64
    narrow = call.to(torch.float32) if is_double else call
    ways = run(reference.lstm, narrow), run_by_hand(narrow)
    plain = {
        name: max((way[name] for way in ways), key=lambda x, e=e: relative_error(x, e))
        for name, e in exact.items()
    }
    if not is_double:
        return plain
    ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return {name: e + (plain[name].double() - e) * ratio for name, e in exact.items()}


def assert_lstm_no_worse(lstm: LSTM, case: Case) -> None:
    """Fail unless every output and every gradient of an LSTM is as exact as plain PyTorch's."""
    _, B, _, H = case.shape
    found, plain, exact = [], [], []
    for index in range(-(-N_COMPARED // (B * H))):
        call = draw(case, index)
        exact.append(run(reference.lstm, call.to(torch.float64)))
        plain.append(run_plain(call, exact[-1]))
        found.append(run(lstm, call))
    for name in exact[0]:
        together = (torch.stack([draws[name] for draws in way]) for way in (found, plain, exact))
        assert_no_worse(name, *together, case.dtype)
