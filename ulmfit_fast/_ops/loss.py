"""Fakes and gradients of the loss's ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ulmfit_fast._ops.schemas import register_fake
from ulmfit_fast.reference import accumulation_dtype


def _gradients_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, need_dx: bool, need_dw: bool
) -> tuple[Tensor, Tensor, Tensor]:
    like_bias = weight if bias is None else bias
    return (
        hidden.new_empty(hidden.shape if need_dx else 0),
        weight.new_empty(weight.shape if need_dw else 0),
        like_bias.new_empty(weight.shape[0] if need_dw and bias is not None else 0),
    )


def _linear_cross_entropy_forward_fake(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, ...]:
    wide = accumulation_dtype(hidden.dtype)
    lse = hidden.new_empty(hidden.shape[0], dtype=wide)
    loss = lse.new_empty(lse.shape if reduction == "none" else ())
    at_once = reduction != "none"
    return (
        loss,
        lse,
        *_gradients_fake(hidden, weight, bias, need_dx and at_once, need_dw and at_once),
    )


def _linear_cross_entropy_backward_fake(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return _gradients_fake(hidden, weight, bias, *rest[-2:])


def _forward_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets, *ctx.settings, need_dx, need_dw = inputs
    _, lse, dx, dw, db = output
    ctx.mark_non_differentiable(lse, dx, dw, db)
    ctx.set_materialize_grads(False)  # zeros like dw would be made, and read by nobody
    ctx.at_once = need_dx or need_dw
    if ctx.at_once:
        ctx.save_for_backward(dx, dw, db, hidden, weight, bias)
    else:
        ctx.save_for_backward(hidden, weight, bias, targets, lse)


def _is_one(grad: Tensor) -> bool:
    """Say whether a gradient is 1, the usual one, which leaves those that were made as they are.

    Only a CPU can look, and only at a tensor itself, not at what stands for it in a trace.
    """
    return type(grad) is Tensor and grad.device.type == "cpu" and float(grad) == 1.0


def _forward_gradient(ctx: Any, grad: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    need_x, need_w, need_b = ctx.needs_input_grad[:3]
    if ctx.at_once:
        *gradients, hidden, weight, bias = ctx.saved_tensors
        if not _is_one(grad):
            gradients = [g * grad for g in gradients]  # a scalar widens nothing
        if torch.is_grad_enabled():  # with create_graph=True: they would pass for constants
            gradients = [
                _Once.apply(g, hidden, weight, bias)  # type: ignore[no-untyped-call]
                for g in gradients
            ]
    else:
        hidden, weight, bias, targets, lse = ctx.saved_tensors
        gradients = torch.ops.ulmfit_fast.linear_cross_entropy_backward(
            grad, hidden, weight, bias, targets, lse, *ctx.settings, need_x, need_w or need_b
        )
    wanted = (g if n else None for g, n in zip(gradients, (need_x, need_w, need_b), strict=True))
    return *wanted, *[None] * 6


class _Once(torch.autograd.Function):
    """A gradient that was made with the loss, which depends on what the loss depends on."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *of: Tensor | None) -> Tensor:
        """Return the gradient as it is."""
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Raise: there is no second derivative."""
        return _backward_gradient(ctx, *grads)


def _backward_gradient(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "linear_cross_entropy_backward: the kernels give first derivatives only; for second ones "
        "call ulmfit_fast.reference.linear_cross_entropy"
    )


register_fake("linear_cross_entropy_forward", _linear_cross_entropy_forward_fake)
torch.library.register_autograd(
    "ulmfit_fast::linear_cross_entropy_forward", _forward_gradient, setup_context=_forward_save
)
register_fake("linear_cross_entropy_backward", _linear_cross_entropy_backward_fake)
torch.library.register_autograd("ulmfit_fast::linear_cross_entropy_backward", _backward_gradient)
