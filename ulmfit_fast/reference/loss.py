"""The tied softmax's loss: cross-entropy of a linear layer's logits, a few rows at a time.

Sizes: N tokens, E embedding size, V vocabulary. z = hidden weight^T + bias, p = softmax(z).
The operands of every product have hidden's dtype; sums, losses and lse are float32 (float64 beside
float64). weight may be float32 beside 16-bit hidden: it is rounded, its gradient is not.

    loss = lse - (1 - s) z[target] - s mean(z)      lse = log(sum(exp(z))), s = label_smoothing
    dz   = g (p - (1 - s) onehot(target) - s / V)   g: gradient of the row's loss, 0 where ignored
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ulmfit_fast.reference.masks import accumulation_dtype

#: Rows of logits that exist at a time: 1,024 x 60,000 float32 are 245 MB.
CHUNK_ROWS = 1024
Gradients = tuple[Tensor, Tensor, Tensor]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy of a linear layer's logits, differentiable by autograd.

    Args:
        hidden: shape [N, E].
        weight: shape [V, E].
        bias: shape [V] or None.
        targets: class of each row, int64, shape [N].
        ignore_index: rows with this target count for nothing.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
        reduction: "mean" over rows that count, "sum", or "none".

    Returns:
        loss: scalar, or [N] with 0 where ignored; NaN for the mean of no rows.
    """
    dtype = hidden.dtype
    logits = F.linear(hidden, weight.to(dtype), None if bias is None else bias.to(dtype))
    return F.cross_entropy(
        logits.to(accumulation_dtype(dtype)),
        targets,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def linear_cross_entropy_forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss and what its gradient needs, or at once the gradient.

    Args:
        hidden: as for linear_cross_entropy.
        weight: likewise.
        bias: likewise.
        targets: likewise.
        ignore_index: likewise.
        label_smoothing: likewise.
        reduction: likewise.
        need_dx: also return the loss's gradient with respect to hidden; not with "none".
        need_dw: likewise with respect to weight and bias.

    Returns:
        loss: as above.
        lse: of every row, ignored ones too; shape [N].
        dx, dw, db: gradients of the loss in the dtypes of hidden, weight and bias (of weight
            without one); shape [0] where not wanted, db also without a bias.
    """
    wide = accumulation_dtype(hidden.dtype)
    losses, lse = hidden.new_empty(len(hidden), dtype=wide), hidden.new_empty(0, dtype=wide)
    lse = torch.empty_like(losses)
    counts = targets != ignore_index
    n_counted = counts.sum()
    for rows, z in _logits(hidden, weight, bias):
        lse[rows] = z.logsumexp(dim=1)
        wanted = z.gather(1, torch.where(counts[rows], targets[rows], 0)[:, None]).squeeze(1)
        loss = lse[rows] - (1.0 - label_smoothing) * wanted
        if label_smoothing > 0:
            loss -= label_smoothing * z.mean(dim=1)
        losses[rows] = torch.where(counts[rows], loss, 0.0)
    nothing = (
        hidden.new_empty(0),
        weight.new_empty(0),
        (weight if bias is None else bias).new_empty(0),
    )
    if reduction == "none":
        return losses, lse, *nothing
    loss = losses.sum()
    grad = torch.ones_like(loss)
    if reduction == "mean":
        loss = loss / n_counted
    if not (need_dx or need_dw):
        return loss, lse, *nothing
    return loss, lse, *linear_cross_entropy_backward(
        grad, hidden, weight, bias, targets, lse, ignore_index, label_smoothing, reduction,
        need_dx, need_dw,
    )  # fmt: skip


def linear_cross_entropy_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    lse: Tensor,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    need_dx: bool,
    need_dw: bool,
) -> Gradients:
    """Return the gradients of hidden, weight and bias.

    Args:
        grad: gradient of the loss; scalar, or [N] with "none".
        hidden: as for linear_cross_entropy.
        weight: likewise.
        bias: likewise.
        targets: likewise.
        lse: from the forward pass; shape [N].
        ignore_index: as for linear_cross_entropy.
        label_smoothing: likewise.
        reduction: likewise.
        need_dx: as for the forward pass.
        need_dw: likewise.

    Returns:
        dx, dw, db: as there.
    """
    dtype, wide = hidden.dtype, lse.dtype
    counts = targets != ignore_index
    if reduction == "mean":
        grad = grad / counts.sum().clamp(min=1)
    row_grad = torch.where(counts, grad.to(wide), 0.0)
    dx = hidden.new_empty(hidden.shape if need_dx else 0)
    dw = weight.new_zeros(weight.shape if need_dw else 0, dtype=wide)
    like_bias = weight if bias is None else bias
    db = like_bias.new_zeros(len(weight) if need_dw and bias is not None else 0, dtype=wide)
    for rows, z in _logits(hidden, weight, bias):
        p = (z - lse[rows, None]).exp()
        if label_smoothing > 0:
            p -= label_smoothing / len(weight)
        wanted = torch.where(counts[rows], targets[rows], 0)[:, None]
        p.scatter_add_(1, wanted, torch.full_like(p[:, :1], label_smoothing - 1.0))
        dz = p * row_grad[rows, None]
        if need_dw and bias is not None:
            db += dz.sum(dim=0)
        dz = dz.to(dtype)
        if need_dx:
            dx[rows] = dz @ weight.to(dtype)
        if need_dw:
            dw += dz.t() @ hidden[rows]
    return dx, dw.to(weight.dtype), db.to(like_bias.dtype)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of CHUNK_ROWS rows at a time, in the dtype of sums."""
    dtype = hidden.dtype
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    for first in range(0, len(hidden), CHUNK_ROWS):
        rows = slice(first, first + CHUNK_ROWS)
        yield rows, F.linear(hidden[rows], weight, bias).to(accumulation_dtype(dtype))
