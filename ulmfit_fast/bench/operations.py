"""The three parts that cost the time of training: LSTM layer, optimizer's step, softmax's loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_fast import functional
from ulmfit_fast.bench.clock import Call
from ulmfit_fast.bench.kinds import OURS, Check, E, Kind, Size, compare
from ulmfit_fast.optim import LayerwiseAdamW

BOTH = (torch.float32, torch.bfloat16)
DROP_P = 0.5
#: Distance of the optimizer from float64 that is allowed, in parts of how far parameters moved.
ALLOWED_OF_OPTIMIZER = 1e-5
MAX_GRAD_NORM = 0.25

Weights = tuple[Tensor, Tensor, Tensor, Tensor]


def _draw(shape: Sequence[int], std: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw a leaf whose gradient is taken; from torch's generator, on the CPU."""
    return (std * torch.randn(*shape)).to(device, dtype).requires_grad_()


# --- one weight-dropped LSTM layer H -> H


def _lstm_inputs(
    size: Size, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Weights, Tensor]:
    """Return x, weights and the gradient of y."""
    H, std = size.H, size.H**-0.5
    x = _draw((size.T, size.B, H), 1.0, dtype, device)
    weights = tuple(
        _draw(shape, std, dtype, device) for shape in ((4 * H, H),) * 2 + ((4 * H,),) * 2
    )
    dy = _draw((size.T, size.B, H), 1.0, dtype, device).detach()
    return x, weights, dy  # type: ignore[return-value]


def _torch_lstm(x: Tensor, weights: Weights, w_hh: Tensor) -> Tensor:
    """Return y of what nn.LSTM.forward calls, with another recurrent weight."""
    zeros = x.new_zeros(1, x.shape[1], w_hh.shape[1])
    flat = [weights[0], w_hh, weights[2], weights[3]]
    y: Tensor = torch.lstm(x, (zeros, zeros), flat, True, 1, 0.0, True, False, False)[0]
    return y


def build_lstm(size: Size, dtype: torch.dtype, device: torch.device) -> Mapping[str, Call]:
    """Return forward and backward pass, with a fresh mask in every call."""
    x, weights, dy = _lstm_inputs(size, dtype, device)

    def ours() -> object:
        seed = functional.draw_seeds(1, device)
        y, _ = functional.lstm(x, None, weights, DROP_P, seed)
        return torch.autograd.grad(y, [x, *weights], dy)

    def peer() -> object:
        y = _torch_lstm(x, weights, F.dropout(weights[1], DROP_P))
        return torch.autograd.grad(y, [x, *weights], dy)

    return {OURS: ours, "nn.LSTM, weight drop": peer}


def check_lstm(dtype: torch.dtype, device: torch.device) -> Check:
    """Compare y and all gradients, with one mask for all, at a few steps."""
    x, weights, dy = _lstm_inputs(Size(T=3, B=8, H=256), dtype, device)
    seed = torch.tensor([7], device=device)

    def run(wide: torch.dtype | None) -> list[Tensor]:
        a, b, *c = (t.detach().to(wide or dtype).requires_grad_() for t in (x, *weights))
        leaves = (b, c[0], c[1], c[2])
        y = _torch_lstm(a, leaves, functional.drop_connect(c[0], DROP_P, seed))
        return [y, *torch.autograd.grad(y, [a, *leaves], dy.to(y.dtype))]

    y, _ = functional.lstm(x, None, weights, DROP_P, seed)
    ours = [y, *torch.autograd.grad(y, [x, *weights], dy)]
    return compare(ours, run(None), run(torch.float64), dtype)


# --- the cross-entropy of a linear layer


def _plain_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return what one writes in torch; 16-bit hidden stands beside float32 weights."""
    logits = F.linear(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype))
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), targets)


def _loss_inputs(
    size: Size, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Tensor]:
    """Return hidden, weight and bias, and targets."""
    n_tokens = size.T * size.B
    leaves = [
        _draw((n_tokens, E), 1.0, dtype, device),
        _draw((size.V, E), 0.1, torch.float32, device),
        _draw((size.V,), 0.1, torch.float32, device),
    ]
    return leaves, torch.randint(size.V, (n_tokens,)).to(device)


def _loss_and_gradients(
    loss_of: Callable[..., Tensor], leaves: Sequence[Tensor], targets: Tensor
) -> list[Tensor]:
    loss = loss_of(*leaves, targets)
    return [loss.detach(), *torch.autograd.grad(loss, list(leaves))]


def build_loss(size: Size, dtype: torch.dtype, device: torch.device) -> Mapping[str, Call]:
    """Return loss and gradients."""
    leaves, targets = _loss_inputs(size, dtype, device)
    return {
        OURS: lambda: _loss_and_gradients(functional.linear_cross_entropy, leaves, targets),
        "F.cross_entropy of F.linear": lambda: _loss_and_gradients(_plain_loss, leaves, targets),
    }


def check_loss(dtype: torch.dtype, device: torch.device) -> Check:
    """Compare the loss and all gradients, at a few hundred rows and classes."""
    leaves, targets = _loss_inputs(Size(T=13, B=10, V=1030), dtype, device)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    return compare(
        _loss_and_gradients(functional.linear_cross_entropy, leaves, targets),
        _loss_and_gradients(_plain_loss, leaves, targets),
        _loss_and_gradients(_plain_loss, wide, targets),
        dtype,
    )


# --- the optimizer's step over an AWD-LSTM


def _parameters(size: Size, dtype: torch.dtype, device: torch.device) -> list[list[nn.Parameter]]:
    """Return the parameters of E -> H -> H -> E and a tied softmax by layer, with gradients."""
    H = size.H
    layers: list[list[list[int]]] = [
        [[4 * h, i], [4 * h, h], [4 * h], [4 * h]] for i, h in ((E, H), (H, H), (H, E))
    ]
    groups = []
    for shapes in (*layers, [[size.V, E], [size.V]]):
        group = [nn.Parameter((0.05 * torch.randn(*s, dtype=dtype)).to(device)) for s in shapes]
        for parameter in group:
            parameter.grad = 1e-3 * torch.randn(*parameter.shape, dtype=dtype).to(device)
        groups.append(group)
    return groups


def _groups(parameters: Sequence[Sequence[nn.Parameter]]) -> list[dict[str, Any]]:
    """Return param groups, each learning 2.6 times slower than the one above."""
    n = len(parameters)
    return [
        {"params": group, "lr": 4e-3 / 2.6 ** (n - 1 - k), "betas": (0.7, 0.99)}
        for k, group in enumerate(parameters)
    ]


def _clipped_adamw(
    parameters: Sequence[Sequence[nn.Parameter]],
    *,
    foreach: bool | None = None,
    fused: bool | None = None,
) -> Callable[[], object]:
    """Return a step of torch's AdamW behind torch's clip."""
    optimizer = torch.optim.AdamW(_groups(parameters), foreach=foreach, fused=fused)
    flat = [parameter for group in parameters for parameter in group]

    def step() -> None:
        nn.utils.clip_grad_norm_(flat, MAX_GRAD_NORM)
        optimizer.step()

    return step


def build_optimizer(size: Size, dtype: torch.dtype, device: torch.device) -> Mapping[str, Call]:
    """Return clipped steps over the same parameters and gradients."""
    parameters = _parameters(size, dtype, device)
    ours = LayerwiseAdamW(_groups(parameters), max_grad_norm=MAX_GRAD_NORM)
    return {
        OURS: ours.step,
        "clip, AdamW(foreach)": _clipped_adamw(parameters, foreach=True),
        "clip, AdamW(fused)": _clipped_adamw(parameters, fused=True),
    }


def check_optimizer(dtype: torch.dtype, device: torch.device) -> Check:
    """Compare the parameters after three steps with those of a loop in float64."""
    parameters = _parameters(Size(H=24, V=50), dtype, device)
    first = [p.detach().clone() for group in parameters for p in group]
    wide = [[nn.Parameter(p.detach().double()) for p in group] for group in parameters]
    ours = LayerwiseAdamW(_groups(parameters), max_grad_norm=MAX_GRAD_NORM)
    exact = _clipped_adamw(wide, foreach=False, fused=False)
    for _ in range(3):
        for group, wide_group in zip(parameters, wide, strict=True):
            for parameter, copy in zip(group, wide_group, strict=True):
                assert parameter.grad is not None
                copy.grad = parameter.grad.double()
        ours.step()
        exact()
    found = [p.detach().double() for group in parameters for p in group]
    exacts = [p.detach() for group in wide for p in group]
    wrong = sum(float((f - e).square().sum()) for f, e in zip(found, exacts, strict=True))
    moved = sum(float((e - f).square().sum()) for e, f in zip(exacts, first, strict=True))
    return Check((wrong / moved) ** 0.5, ALLOWED_OF_OPTIMIZER)


def _n_parameters(size: Size) -> float:
    return 8 * size.H * (E + size.H) + 4 * E * (size.H + E) + size.V * (E + 1)


LSTM = Kind(
    "lstm", "LSTM layer with weight drop, forward and backward", 0.2,
    [Size(70, 64, 1152), Size(70, 32, 1152), Size(35, 32, 1152), Size(18, 32, 1152),
     Size(18, 16, 1152), Size(9, 8, 1152), Size(5, 4, 400)],
    BOTH,
    cost=lambda s: 48.0 * s.T * s.B * s.H * s.H,
    n_bytes=lambda s: 4.0 * (40 * s.T * s.B * s.H + 32 * s.H * s.H),
    build=build_lstm, check=check_lstm,
)  # fmt: skip
LOSS = Kind(
    "loss", "Softmax and cross-entropy of tokens, forward and backward", 0.2,
    [Size(70, 64, 0, 30_000), Size(35, 64, 0, 30_000), Size(35, 32, 0, 30_000),
     Size(18, 32, 0, 15_000), Size(9, 32, 0, 15_000), Size(5, 8, 0, 5_000)],
    BOTH,
    cost=lambda s: 6.0 * s.T * s.B * E * s.V,
    n_bytes=lambda s: 4.0 * (3 * s.T * s.B * s.V + 4 * s.V * E),
    build=build_loss, check=check_loss,
)  # fmt: skip
OPTIMIZER = Kind(
    "optimizer", "Clipped AdamW step over an AWD-LSTM", 0.1,
    [Size(0, 0, 1152, 30_000), Size(0, 0, 1152, 10_000), Size(0, 0, 400, 5_000),
     Size(0, 0, 128, 1_000)],
    (torch.float32,),
    cost=_n_parameters,
    n_bytes=lambda s: 4.0 * 10 * _n_parameters(s),
    build=build_optimizer, check=check_optimizer,
)  # fmt: skip
