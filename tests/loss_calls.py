"""Calls of the loss, run by an implementation under test, plain PyTorch and float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from numerics import FLOOR, relative_error
from torch import Tensor

from ulmfit_fast import reference

IGNORED = -100
RESULTS = ("loss", "dx", "dw", "db")


@dataclass(frozen=True)
class Case:
    """One kind of call.

    Attributes:
        shape: N, E, V.
        scale: standard deviation of a logit, about.
        ignored: share of the rows that count for nothing; 1 ignores all.
        masters: the weight and the bias are float32 beside 16 bits.
        layout: "contiguous", "transposed" (dense, the other way round) or "strided".
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype = torch.float32
    scale: float = 2.0
    ignored: float = 0.2
    bias: bool = True
    label_smoothing: float = 0.0
    reduction: str = "mean"
    masters: bool = False
    layout: str = "contiguous"

    def __str__(self) -> str:
        """Return a short name for pytest: what differs from the defaults."""
        parts = ["N{}-E{}-V{}".format(*self.shape), str(self.dtype).removeprefix("torch.")]
        plain = Case(self.shape, self.dtype)
        changed = {k: v for k, v in vars(self).items() if v != getattr(plain, k)}
        return "-".join([*parts, *(f"{k}={v}" for k, v in changed.items())])


@dataclass(frozen=True)
class Call:
    """Tensors of one call, and the gradient that flows back into its loss."""

    case: Case
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    cotangent: Tensor

    def to(self, dtype: torch.dtype) -> Call:
        """Return the same call with every tensor in one dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        hidden, weight = self.hidden.to(dtype), self.weight.to(dtype)
        return replace(self, hidden=hidden, weight=weight, bias=bias)

    def forward_arguments(self, need_dx: bool = False, need_dw: bool = False) -> tuple[object, ...]:
        """Return the arguments of the op linear_cross_entropy_forward."""
        tensors = (self.hidden, self.weight, self.bias, self.targets)
        settings = (IGNORED, self.case.label_smoothing, self.case.reduction)
        return (*tensors, *settings, need_dx, need_dw)

    def backward_arguments(self, need_dx: bool = True, need_dw: bool = True) -> tuple[object, ...]:
        """Return the arguments of the op linear_cross_entropy_backward, lse from the reference."""
        arguments = self.forward_arguments(need_dx, need_dw)
        lse = reference.linear_cross_entropy_forward(*self.forward_arguments())[1]
        return (self.cotangent, *arguments[:4], lse, *arguments[4:])


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the same matrix in another layout."""
    if layout == "transposed":
        return x.t().contiguous().t()
    if layout == "strided":
        buffer = torch.full((x.shape[0] + 1, x.shape[1] + 3), torch.nan, dtype=x.dtype)
        buffer[1:, 2:-1] = x
        return buffer[1:, 2:-1]
    return x


def draw(case: Case, seed: int = 0) -> Call:
    """Draw a call's tensors."""
    generator = torch.Generator().manual_seed(seed)
    N, E, V = case.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    # The operands are exact in case.dtype, so that float64 sees the same numbers; a float32 weight
    # beside 16 bits is not, as it is rounded by whoever multiplies it.
    weights = torch.float32 if case.masters else case.dtype
    hidden, weight = normal(N, E), normal(V, E) * case.scale / E**0.5
    bias = normal(V).to(weights) if case.bias else None
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[torch.rand(N, generator=generator) < case.ignored] = IGNORED
    wide = reference.accumulation_dtype(case.dtype)
    none = case.reduction == "none"
    cotangent = normal(N).to(wide) if none else torch.tensor(1.5, dtype=wide)
    layouts = (
        laid_out(hidden.to(case.dtype), case.layout),
        laid_out(weight.to(weights), case.layout),
    )
    return Call(case, *layouts, bias, targets, cotangent)


def run_autograd(loss_of: object, call: Call) -> dict[str, Tensor]:
    """Return the loss and all gradients of a function with functional's arguments."""
    leaves = [
        None if t is None else t.detach().requires_grad_()
        for t in (call.hidden, call.weight, call.bias)
    ]
    loss = loss_of(  # type: ignore[operator]
        *leaves, call.targets, IGNORED, call.case.label_smoothing, call.case.reduction
    )
    wanted = [leaf for leaf in leaves if leaf is not None]
    grads = torch.autograd.grad(loss, wanted, call.cotangent.to(loss.dtype))
    return {"loss": loss.detach(), **dict(zip(RESULTS[1:], grads, strict=False))}


def plain(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *rest: object
) -> Tensor:
    """Return what a PyTorch user writes: logits in the operands' dtype, the rest in float32."""
    ignore_index, label_smoothing, reduction = rest
    dtype = hidden.dtype
    logits = F.linear(hidden, weight.to(dtype), None if bias is None else bias.to(dtype))
    return F.cross_entropy(
        logits.to(reference.accumulation_dtype(dtype)),
        targets,
        ignore_index=ignore_index,  # type: ignore[arg-type]
        label_smoothing=label_smoothing,  # type: ignore[arg-type]
        reduction=reduction,  # type: ignore[arg-type]
    )


def check(loss_of: object, case: Case, seed: int = 0) -> None:
    """Hold an implementation to the criterion of numerics.py."""
    call = draw(case, seed)
    exact = run_autograd(plain, call.to(torch.float64))
    torchs = run_autograd(plain, call)
    found = run_autograd(loss_of, call)
    floor = FLOOR[case.dtype]
    for name, value in found.items():
        error, allowed = relative_error(value, exact[name]), floor
        allowed += 2 * relative_error(torchs[name], exact[name])
        assert error <= allowed, f"{name} of {case}: error {error:.3g}, allowed {allowed:.3g}"
