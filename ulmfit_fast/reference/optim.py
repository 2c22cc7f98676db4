"""The optimizer's step."""

from __future__ import annotations

from torch import Tensor


def adamw_step(
    param: Tensor,
    grad: Tensor,
    moments: tuple[Tensor, Tensor],
    step: int,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of Adam with decoupled weight decay for one layer, out of place.

    Args:
        param: any shape.
        grad: gradient, same shape.
        moments: running means of grad and grad ** 2, same shape.
        step: number of this step, from 1.
        lr: this layer's learning rate.
        weight_decay: the parameter shrinks by lr * weight_decay first.
        betas: decay rates of the moments; the current ones are used in the bias correction.
        eps: added to the root of the second moment.

    Returns:
        param: new parameter.
        exp_avg: new first moment.
        exp_avg_sq: new second moment.

    Source: Loshchilov, Hutter 2019, arXiv:1711.05101.
    """
    beta1, beta2 = betas
    exp_avg = beta1 * moments[0] + (1 - beta1) * grad
    exp_avg_sq = beta2 * moments[1] + (1 - beta2) * grad * grad
    denominator = (exp_avg_sq / (1 - beta2**step)).sqrt() + eps
    decayed = param * (1 - lr * weight_decay)
    return decayed - lr / (1 - beta1**step) * exp_avg / denominator, exp_avg, exp_avg_sq
