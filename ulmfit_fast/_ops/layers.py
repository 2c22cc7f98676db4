"""Fakes and gradients of dropouts, activation regularisation and pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast._ops.schemas import register_fake
from ulmfit_fast.reference import accumulation_dtype

ops = torch.ops.ulmfit_fast


def _drop_connect_fake(weight: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    return weight.new_empty(weight.shape)  # contiguous for any strides, like every kernel's output


def _drop_connect_save(ctx: Any, inputs: tuple[Tensor, float, Tensor], output: Tensor) -> None:
    _, ctx.drop_p, seed = inputs
    ctx.save_for_backward(seed)  # the mask is a function of the seed: nothing else is stored


def _drop_connect_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    # out = m * weight / (1 - drop_p) is linear in weight: its gradient is the op itself.
    (seed,) = ctx.saved_tensors
    return ops.drop_connect(grad, ctx.drop_p, seed), None, None


def _variational_dropout_fake(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _variational_dropout_save(
    ctx: Any, inputs: tuple[Tensor, float, Tensor], output: Tensor
) -> None:
    _, ctx.drop_p, seed = inputs
    ctx.save_for_backward(seed)


def _variational_dropout_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (seed,) = ctx.saved_tensors
    return ops.variational_dropout(grad, ctx.drop_p, seed), None, None


def _embedding_dropout_fake(
    ids: Tensor, weight: Tensor, drop_p: float, seed: Tensor | None, padding_idx: int | None
) -> Tensor:
    return weight.new_empty(*ids.shape, weight.shape[1])


def _embedding_dropout_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ids, weight, ctx.drop_p, seed, ctx.padding_idx = inputs
    ctx.n_rows = weight.shape[0]
    ctx.save_for_backward(ids, seed)


def _embedding_dropout_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    ids, seed = ctx.saved_tensors
    dw = ops.embedding_dropout_backward(grad, ids, ctx.n_rows, ctx.drop_p, seed, ctx.padding_idx)
    return None, dw, None, None, None


def _embedding_dropout_backward_fake(grad: Tensor, ids: Tensor, n_rows: int, *rest: Any) -> Tensor:
    return grad.new_empty(n_rows, grad.shape[-1])


def _activation_regularization_fake(
    x: Tensor, drop_p: float, seed: Tensor | None, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    penalty = x.new_empty((), dtype=accumulation_dtype(x.dtype))
    return x.new_empty(0 if seed is None else x.shape), penalty


def _activation_regularization_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.drop_p, seed, ctx.alpha, ctx.beta = inputs
    ctx.save_for_backward(x, seed)


def _activation_regularization_gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    x, seed = ctx.saved_tensors
    dx = ops.activation_regularization_backward(*grads, x, ctx.drop_p, seed, ctx.alpha, ctx.beta)
    return dx, None, None, None, None


def _activation_regularization_backward_fake(
    d_dropped: Tensor, d_penalty: Tensor, x: Tensor, *rest: Any
) -> Tensor:
    return x.new_empty(x.shape)


def _concat_pool_fake(output: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    B, _, E = output.shape
    return output.new_empty(B, 3 * E), start.new_empty(B, E)


def _concat_pool_save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    x, start, end = inputs
    ctx.n_positions = x.shape[1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # none for the places of the largest
    ctx.save_for_backward(output[1], start, end)


def _concat_pool_gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
    argmax, start, end = ctx.saved_tensors
    return ops.concat_pool_backward(grad, argmax, start, end, ctx.n_positions), None, None


def _concat_pool_backward_fake(
    grad: Tensor, argmax: Tensor, start: Tensor, end: Tensor, n_positions: int
) -> Tensor:
    return grad.new_empty(len(grad), n_positions, argmax.shape[1])


def _once(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError(
        "the kernels give first derivatives only; for second ones call the function of "
        "ulmfit_fast.reference"
    )


_FAKES: dict[str, Callable[..., Any]] = {
    "drop_connect": _drop_connect_fake,
    "variational_dropout": _variational_dropout_fake,
    "embedding_dropout": _embedding_dropout_fake,
    "embedding_dropout_backward": _embedding_dropout_backward_fake,
    "activation_regularization": _activation_regularization_fake,
    "activation_regularization_backward": _activation_regularization_backward_fake,
    "concat_pool": _concat_pool_fake,
    "concat_pool_backward": _concat_pool_backward_fake,
}
for _name, _fake in _FAKES.items():
    register_fake(_name, _fake)
for _name, _gradient, _save in (
    ("drop_connect", _drop_connect_backward, _drop_connect_save),
    ("variational_dropout", _variational_dropout_backward, _variational_dropout_save),
    ("embedding_dropout", _embedding_dropout_gradient, _embedding_dropout_save),
    (
        "activation_regularization",
        _activation_regularization_gradient,
        _activation_regularization_save,
    ),
    ("concat_pool", _concat_pool_gradient, _concat_pool_save),
):
    torch.library.register_autograd(f"ulmfit_fast::{_name}", _gradient, setup_context=_save)
for _name in (
    "embedding_dropout_backward",
    "activation_regularization_backward",
    "concat_pool_backward",
):
    torch.library.register_autograd(f"ulmfit_fast::{_name}", _once)
