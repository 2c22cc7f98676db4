"""The optimizer's step over all layers at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def layerwise_adamw_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    shadows: Sequence[Tensor],
    averages: Sequence[Tensor],
    n_averaged: Sequence[Tensor],
    grad_norm: Tensor,
    skipped_steps: Tensor,
    ticket: Tensor,
    layers: Tensor,
    layer_of: Sequence[int],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    max_grad_norm: float | None,
    skip_nonfinite: bool,
    average_weight: float,
) -> None:
    """Clip, check, decay and update every tensor, in place; the gradients stay as they are.

        norm = sqrt(sum of grad^2 over all tensors) / grad_scale
        g = grad / grad_scale * min(1, max_grad_norm / (norm + 1e-6))
        m = m + (1 - beta1) (g - m),  v = v + (1 - beta2) (g^2 - v)
        p = p - lr weight_decay p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    If found_inf is not 0, or the norm is not finite and skip_nonfinite holds, nothing changes but
    skipped_steps and grad_norm.

    Args:
        params: unfrozen parameters, on one device; any shape.
        grads: their gradients, like every list below of the same shapes.
        exp_avgs: running means of the gradients, m.
        exp_avg_sqs: running means of their squares, v.
        steps: steps taken by each parameter, float32, one element each; t - 1 before, t after.
        shadows: bfloat16 copies of the parameters, or an empty list.
        averages: averages of the parameters, or an empty list.
        n_averaged: parameters in each average, float32, one element each; 0: the average holds
            anything, and becomes the parameter.
        grad_norm: one float32 element, gets the norm; left alone if nothing needs it.
        skipped_steps: one int64 element, + 1 where nothing changes.
        ticket: one int32 element with 0, for kernels that count blocks.
        layers: lr, weight_decay, beta1, beta2 and eps of each layer; float64, shape [L, 5], on the
            CPU or the device of params.
        layer_of: row in layers of each parameter.
        grad_scale: how many times too large the gradients are; one float32 element, or None.
        found_inf: whether somebody else found an infinity; one float32 element, or None.
        max_grad_norm: largest norm of the gradients; None does not clip.
        skip_nonfinite: whether a gradient that is not finite makes the step do nothing.
        average_weight: of the newest parameters in the average; 0 averages all alike.

    Numbers: norm and all factors in float64; the rest in the parameters' dtype.
    Source: Loshchilov, Hutter 2019, arXiv:1711.05101; clipping as torch.nn.utils.clip_grad_norm_.
    """
    device = params[0].device
    inverse = torch.ones((), dtype=torch.float64, device=device)
    if grad_scale is not None:
        inverse = 1.0 / grad_scale.double().reshape(())
    scale = inverse
    runs = torch.ones((), dtype=torch.bool, device=device)
    if found_inf is not None:
        runs = found_inf.reshape(()) == 0
    if skip_nonfinite or max_grad_norm is not None:
        squares = torch.stack([g.double().square().sum() for g in grads])
        norm = squares.sum().sqrt() * inverse
        grad_norm.copy_(norm.reshape(grad_norm.shape))
        if max_grad_norm is not None:
            scale = inverse * (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        if skip_nonfinite:
            runs = runs & norm.isfinite()
    layers = layers.to(device)
    for i, (p, m, v) in enumerate(zip(params, exp_avgs, exp_avg_sqs, strict=True)):
        t = steps[i] + runs
        after = adamw_step(p, grads[i] * scale, (m, v), t.double(), layers[layer_of[i]])
        for tensor, value in zip((p, m, v), after, strict=True):
            tensor.copy_(torch.where(runs, value, tensor))
        steps[i].copy_(t)
        if shadows:
            shadows[i].copy_(torch.where(runs, p.to(shadows[i].dtype), shadows[i]))
        if averages:
            n = n_averaged[i] + runs
            weight = torch.full_like(n, average_weight) if average_weight > 0 else 1.0 / n
            moved = averages[i] + weight.to(p.dtype) * (p - averages[i])
            average = torch.where(n == 1, p, moved)
            averages[i].copy_(torch.where(runs, average, averages[i]))
            n_averaged[i].copy_(n)
    skipped_steps.add_((~runs).to(skipped_steps.dtype))


def adamw_step(
    param: Tensor, grad: Tensor, moments: tuple[Tensor, Tensor], t: Tensor, layer: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of Adam with decoupled weight decay for one tensor, out of place.

    Args:
        param: any shape.
        grad: gradient, same shape.
        moments: running means of grad and grad ** 2, same shape.
        t: number of this step, from 1; float64, one element.
        layer: lr, weight_decay, beta1, beta2, eps; float64, shape [5].

    Returns:
        param: new parameter.
        exp_avg: new first moment.
        exp_avg_sq: new second moment.
    """
    t = t.reshape(())
    lr, weight_decay, beta1, beta2, eps = layer.unbind()
    exp_avg = moments[0] + (1 - beta1) * (grad - moments[0])
    exp_avg_sq = moments[1] + (1 - beta2) * (grad * grad - moments[1])
    # The root of the bias correction is taken out of the denominator: the same, rounded less often.
    root = (1 - beta2**t).sqrt()
    step = lr * root / (1 - beta1**t) * (exp_avg / (exp_avg_sq.sqrt() + eps * root))
    return param - (lr * weight_decay * param + step), exp_avg, exp_avg_sq
