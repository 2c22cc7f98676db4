"""Dropouts, activation regularisation and pooling.

Sizes: T time steps, B batch rows, E embedding size, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ulmfit_fast.reference.masks import accumulation_dtype, keep_at, keep_mask


def embedding_dropout(
    ids: Tensor, weight: Tensor, drop_p: float, seed: Tensor | None, padding_idx: int | None = None
) -> Tensor:
    """Look up embeddings with whole words dropped: one draw for every row of the table.

    Args:
        ids: token ids, any shape, int64.
        weight: embedding table; shape [V, E].
        drop_p: chance that a word's embedding is zero in this whole call, in [0, 1).
        seed: int64 tensor with one element; word v has index v. None where drop_p is 0.
        padding_idx: row that gets no gradient from the look-up.

    Returns:
        embedded: shape [*ids.shape, E].

    Source: Gal, Ghahramani 2016, arXiv:1512.05287.
    """
    embedded = F.embedding(ids, weight, padding_idx)
    return embedded if seed is None else _drop_words(embedded, ids, drop_p, seed)


def embedding_dropout_backward(
    grad: Tensor,
    ids: Tensor,
    n_rows: int,
    drop_p: float,
    seed: Tensor | None,
    padding_idx: int | None,
) -> Tensor:
    """Return the gradient of the table: for each row the sum over the places where its id stands.

    Args:
        grad: of embedded; shape [*ids.shape, E].
        ids: as for embedding_dropout.
        n_rows: V.
        drop_p: as for embedding_dropout.
        seed: likewise.
        padding_idx: likewise.

    Returns:
        dw: grad's dtype, sums in float32 or wider; shape [V, E].
    """
    if seed is not None:
        grad = _drop_words(grad, ids, drop_p, seed)
    wide = grad.to(accumulation_dtype(grad.dtype))
    padding = -1 if padding_idx is None else padding_idx
    dw: Tensor = torch.ops.aten.embedding_dense_backward(wide, ids, n_rows, padding, False)
    return dw.to(grad.dtype)


def _drop_words(embedded: Tensor, ids: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    keep = keep_at(ids, drop_p, seed).unsqueeze(-1)
    return torch.where(keep, embedded * (1.0 / (1.0 - drop_p)), 0.0)


def variational_dropout(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Drop features with one draw per row for all time steps.

    Args:
        x: shape [T, B, E].
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).
        seed: int64 tensor with one element; element (b, e) has index b * E + e.

    Returns:
        dropped: contiguous; shape [T, B, E].
    """
    keep = keep_mask(x.shape[1:], drop_p, seed)
    return torch.where(keep, x * (1.0 / (1.0 - drop_p)), 0.0).contiguous()


def activation_regularization(
    x: Tensor, drop_p: float, seed: Tensor | None, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """Drop features like variational_dropout, and penalise large and jumping activations.

    Args:
        x: output of the last layer; shape [T, B, E].
        drop_p: as for variational_dropout.
        seed: as there; None where drop_p is 0.
        alpha: weight of the activation term (AR), mean(dropped ** 2).
        beta: weight of the temporal term (TAR), mean((x[t + 1] - x[t]) ** 2); 0 where T is 1.

    Returns:
        dropped: shape [T, B, E]; without a seed it would be x, and is of shape [0].
        penalty: scalar, float32 or wider.

    Source: Merity, McCann, Socher 2017, arXiv:1708.01009.
    """
    wide = accumulation_dtype(x.dtype)
    dropped = x if seed is None else variational_dropout(x, drop_p, seed)
    penalty = alpha * dropped.to(wide).square().mean()
    if len(x) > 1:
        penalty = penalty + beta * x.to(wide).diff(dim=0).square().mean()
    return x.new_empty(0) if seed is None else dropped, penalty


def activation_regularization_backward(
    d_dropped: Tensor,
    d_penalty: Tensor,
    x: Tensor,
    drop_p: float,
    seed: Tensor | None,
    alpha: float,
    beta: float,
) -> Tensor:
    """Return the gradient of x from those of dropped and penalty.

    Args:
        d_dropped: shape [T, B, E], or [0] without a seed.
        d_penalty: scalar.
        x: as for activation_regularization.
        drop_p: likewise.
        seed: likewise.
        alpha: likewise.
        beta: likewise.
    """
    wide = accumulation_dtype(x.dtype)
    n = x.numel()
    dropped = x if seed is None else variational_dropout(x, drop_p, seed)
    dx = dropped.to(wide) * (d_penalty * (2.0 * alpha / n))
    if seed is not None:
        dx = variational_dropout(dx + d_dropped.to(wide), drop_p, seed)
    if len(x) > 1:
        jumps = x.to(wide).diff(dim=0) * (d_penalty * (2.0 * beta / (n - n // len(x))))
        dx[1:] += jumps
        dx[:-1] -= jumps
    return dx.to(x.dtype)


def concat_pool(output: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the last, the largest and the mean vector over each row's valid positions.

    Args:
        output: shape [B, T, E].
        start: first valid position of each row; int64, shape [B].
        end: one past the last valid position, start < end <= T; int64, shape [B].

    Returns:
        pooled: last, max, mean in this order; shape [B, 3E].
        argmax: first position of the largest; int64, shape [B, E].
    """
    wide = accumulation_dtype(output.dtype)
    positions = torch.arange(output.shape[1], device=output.device)
    valid = ((positions >= start[:, None]) & (positions < end[:, None])).unsqueeze(2)
    last = output[torch.arange(len(output), device=output.device), end - 1]
    largest, argmax = output.masked_fill(~valid, float("-inf")).max(dim=1)
    total = torch.where(valid, output, 0.0).sum(dim=1, dtype=wide)
    mean = (total / (end - start).unsqueeze(1)).to(output.dtype)
    return torch.cat([last, largest, mean], dim=1), argmax


def concat_pool_backward(
    grad: Tensor, argmax: Tensor, start: Tensor, end: Tensor, n_positions: int
) -> Tensor:
    """Return the gradient of output; that of the largest goes to its first position.

    Args:
        grad: of pooled; shape [B, 3E].
        argmax: from the forward pass.
        start: as for concat_pool.
        end: likewise.
        n_positions: T.

    Returns:
        d_output: 0 outside the valid positions; shape [B, T, E].
    """
    wide = accumulation_dtype(grad.dtype)
    d_last, d_largest, d_mean = grad.to(wide).chunk(3, dim=1)
    positions = torch.arange(n_positions, device=grad.device)
    valid = ((positions >= start[:, None]) & (positions < end[:, None])).unsqueeze(2)
    d_output = torch.where(valid, (d_mean / (end - start).unsqueeze(1)).unsqueeze(1), 0.0)
    d_output[torch.arange(len(grad), device=grad.device), end - 1] += d_last
    d_output.scatter_add_(1, argmax.unsqueeze(1), d_largest.unsqueeze(1))
    return d_output.to(grad.dtype)
