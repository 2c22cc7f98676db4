"""Calls of layerwise_adamw_, run by a kernel, by plain PyTorch and in float64, and what is allowed.

Plain PyTorch is reference.layerwise_adamw_ in float32. Beside the project's criterion, which looks
at whole tensors, every element has its own bound in units of the last place of what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numerics import assert_no_worse
from torch import Tensor

from ulmfit_fast import reference

Arguments = dict[str, Any]
Step = Callable[..., object]
#: Lists that a step changes, in float32.
MOVED = ("params", "exp_avgs", "exp_avg_sqs", "averages")
COUNTS = ("steps", "n_averaged")
# Units of the last place that an element may be off: of a moment, and, beside one of the parameter,
# of its step: roundings of both moments, the root, the quotient and two products add up. The worst
# found were 4.1 of a moment, without fused multiply-add, and 4.2 of a step (of 44 M; 2026-11-25).
UNITS_OF_MOMENT, UNITS_OF_STEP = 6, 6
#: lr, weight_decay, beta1, beta2, eps of three layers.
LAYERS = ((1e-2, 0.1, 0.7, 0.99, 1e-8), (3e-3, 0.0, 0.9, 0.999, 1e-5), (0.0, 0.3, 0.0, 0.5, 1e-8))


@dataclass(frozen=True)
class Case:
    """One call; every tensor has first_step steps behind it, tensor i is of layer i % 3."""

    shapes: tuple[tuple[int, ...], ...] = ((7, 5), (), (3000,), (0,), (1,))
    scale: float = 1e-2  # of the gradients; below 0: magnitudes from 1e-12 to 1e2
    first_step: int = 0
    max_grad_norm: float | None = 0.5
    skip_nonfinite: bool = True
    grad_scale: float | None = None
    found_inf: float | None = None
    shadow: bool = False
    average: float | None = None  # weight of the newest; 0: mean of all
    layout: str = "contiguous"
    poison: float | None = None  # the last element of the longest gradient
    layers: tuple[tuple[float, ...], ...] = field(default=LAYERS)

    def __str__(self) -> str:
        """Return a short name for pytest: what differs from the defaults."""
        changed = [f"{k}={v}" for k, v in vars(self).items() if v != getattr(Case(), k)]
        return "-".join(changed).replace(" ", "") or "defaults"


#: Around the width of vectors (4, 8, 16), what is added in float32 (4096), and tiles (16384).
SIZES = (1, 3, 4, 5, 15, 16, 17, 4095, 4096, 4097, 16_383, 16_384, 16_385)
#: Calls that every kernel is held to.
CASES = [
    Case(),
    Case(tuple((n,) for n in SIZES), first_step=3),
    Case(first_step=9, layout="unaligned", shadow=True, average=0.0),
    Case(first_step=9, layout="transposed", shadow=True, average=0.1),
    Case(first_step=99_999, max_grad_norm=None),
    Case(max_grad_norm=None, skip_nonfinite=False, grad_scale=1024.0),
    Case(max_grad_norm=1e9, grad_scale=1024.0, first_step=1),
    Case(max_grad_norm=1e-3, grad_scale=1024.0, first_step=1),
    Case(scale=-1.0, first_step=2),
    Case(scale=1e-8),
    Case(scale=1e-38, max_grad_norm=None),
    Case(scale=1e19, first_step=1),
    Case(scale=1e-25, first_step=1),
    Case(average=0.3, shadow=True),
    Case(found_inf=0.0, grad_scale=2.0),
    Case(((4105,),) * 40, first_step=2),
]


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same numbers contiguous, transposed, or 4 bytes beyond a multiple of 16."""
    if layout == "transposed" and tensor.dim() == 2:
        return tensor.t().contiguous().t()
    if layout == "unaligned":
        memory = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
        return memory[1:].view(tensor.shape).copy_(tensor)
    return tensor.contiguous()


def draw(case: Case) -> Arguments:
    """Draw the arguments of a call."""
    generator = torch.Generator().manual_seed(7)

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator)

    def gradient(shape: tuple[int, ...]) -> Tensor:
        magnitude = 10 ** (14 * torch.rand(shape, generator=generator) - 12)
        return random(shape) * (case.scale if case.scale > 0 else magnitude)

    grads = [laid_out(gradient(s), case.layout) for s in case.shapes]
    unit = case.scale if case.scale > 0 else 1e-3
    if case.poison is not None:
        max(grads, key=Tensor.numel).flatten()[-1:].fill_(case.poison)
    params = [laid_out(random(s) * 0.05, case.layout) for s in case.shapes]
    n, fresh = len(params), case.first_step == 0
    moments = [
        [
            laid_out((random(s) * unit * 0.1) ** power * (not fresh), case.layout)
            for s in case.shapes
        ]
        for power in (1, 2)
    ]
    averaged = case.average is not None
    return {
        "params": params,
        "grads": grads,
        "exp_avgs": moments[0],
        "exp_avg_sqs": moments[1],
        "steps": [torch.tensor(float(case.first_step)) for _ in range(n)],
        "shadows": [p.bfloat16() for p in params] if case.shadow else [],
        "averages": [laid_out(random(s), case.layout) for s in case.shapes] if averaged else [],
        "n_averaged": [torch.tensor(float(i % 3)) for i in range(n)] if averaged else [],
        "grad_norm": torch.tensor(-1.0),
        "skipped_steps": torch.tensor(5),
        "ticket": torch.tensor(0, dtype=torch.int32),
        "layers": torch.tensor(case.layers, dtype=torch.float64),
        "layer_of": [i % len(case.layers) for i in range(n)],
        "grad_scale": None if case.grad_scale is None else torch.tensor([case.grad_scale]),
        "found_inf": None if case.found_inf is None else torch.tensor([case.found_inf]),
        "max_grad_norm": case.max_grad_norm,
        "skip_nonfinite": case.skip_nonfinite,
        "average_weight": case.average or 0.0,
    }


def converted(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    """Return arguments with every tensor changed."""

    def convert(value: object) -> object:
        if isinstance(value, list):
            return [convert(each) for each in value]
        return change(value) if isinstance(value, Tensor) else value

    return {name: convert(value) for name, value in arguments.items()}


def copied(arguments: Arguments) -> Arguments:
    """Return arguments of their own memory, in the same layouts."""
    return converted(arguments, lambda t: laid_out(t, "unaligned") if odd(t) else t.clone())


def odd(tensor: Tensor) -> bool:
    return tensor.data_ptr() % 16 != 0


def widened(arguments: Arguments) -> Arguments:
    """Return arguments in float64, shadows aside."""
    return converted(arguments, lambda t: t.double() if t.dtype == torch.float32 else t.clone())


def after(step: Step, arguments: Arguments) -> Arguments:
    """Return what a step leaves of a copy of the arguments."""
    own = copied(arguments)
    step(*own.values())
    return own


def exactly(arguments: Arguments) -> Arguments:
    """Return what a step in float64 leaves."""
    own = widened(arguments)
    reference.layerwise_adamw_(**own)
    return own


def flat(tensors: list[Tensor]) -> Tensor:
    """Return the elements of tensors one after the other."""
    return torch.cat([t.flatten() for t in tensors]) if tensors else torch.zeros(1)


def assert_right(step: Step, case: Case) -> None:
    """Fail unless a step is as exact as plain PyTorch's, and each element within its bound."""
    before = draw(case)
    found, exact, plain = (
        after(step, before),
        exactly(before),
        after(reference.layerwise_adamw_, before),
    )
    for name in MOVED:
        values = [flat(each[name]) for each in (found, plain, exact)]
        assert_no_worse(name, *values, torch.float32)
        # What moved is a small part of the parameters: held to the same, it shows more.
        old = flat(widened(before)[name])
        assert_no_worse(f"change of {name}", *(v.double() - old for v in values), torch.float32)
    if case.max_grad_norm is not None or case.skip_nonfinite:
        norm = float(exact["grad_norm"])
        assert abs(float(found["grad_norm"]) - norm) <= 1.2e-7 * norm, "grad_norm"
    for name in COUNTS:
        assert flat(found[name]).tolist() == flat(exact[name]).tolist(), name
    for name in ("skipped_steps", "ticket"):
        assert int(found[name]) == int(exact[name]), name
    for p, shadow in zip(found["params"], found["shadows"], strict=case.shadow):
        assert torch.equal(p.bfloat16(), shadow)
    for name in ("grads", "layers"):
        assert torch.equal(flat([*found[name]]), flat([*before[name]])), f"{name} changed"
    assert_within_units(before, found, exact)


def assert_within_units(before: Arguments, found: Arguments, exact: Arguments) -> None:
    """Fail unless moments and p are within so many units of the last place."""
    for i, layer in enumerate(before["layer_of"]):
        lr, weight_decay, beta1, beta2, eps = before["layers"][layer].tolist()
        t = float(exact["steps"][i])
        p, m, v = (before[name][i].double() for name in ("params", "exp_avgs", "exp_avg_sqs"))
        m64, v64, p64 = (exact[name][i] for name in ("exp_avgs", "exp_avg_sqs", "params"))
        # Of opposite sign, moment and gradient leave less than either: both their units count.
        m_scale, v_scale = m.abs() + m64.abs(), torch.maximum(v, v64)
        assert_close(f"exp_avg {i}", found["exp_avgs"][i], m64, UNITS_OF_MOMENT * unit_of(m_scale))
        assert_close(
            f"exp_avg_sq {i}", found["exp_avg_sqs"][i], v64, UNITS_OF_MOMENT * unit_of(v_scale)
        )
        root = (v64 / (1 - beta2**t)).sqrt() + eps
        step = lr * m_scale / (1 - beta1**t) / root + lr * weight_decay * p.abs()
        bound = unit_of(torch.maximum(p.abs(), p64.abs())) + UNITS_OF_STEP * unit_of(step)
        assert_close(f"param {i}", found["params"][i], p64, bound)


def unit_of(size: Tensor) -> Tensor:
    """Return the distance of float32 numbers of a size."""
    return (
        torch.from_numpy(np.spacing(np.atleast_1d(size.float().numpy()))).double().view(size.shape)
    )


def assert_close(name: str, found: Tensor, exact: Tensor, bound: Tensor) -> None:
    """Fail where an element is farther from exact than its bound."""
    beyond = (found.double() - exact).abs() - bound
    if beyond.numel() and float(beyond.max()) > 0:
        at = int(beyond.argmax())
        values = [float(t.flatten()[at]) for t in (found, exact, bound)]
        raise AssertionError(f"{name}, element {at}: found, exact, allowed {values}")
