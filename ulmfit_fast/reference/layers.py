"""Dropouts, pooling and the loss.

Sizes: T time steps, B batch rows, E embedding size, V vocabulary, N tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ulmfit_fast.reference.masks import accumulation_dtype, drop_connect


def embedding_dropout(
    ids: Tensor, weight: Tensor, drop_p: float, seed: Tensor, padding_idx: int | None = None
) -> Tensor:
    """Look up embeddings with whole words dropped: one draw for every row of the table.

    Args:
        ids: token ids, any shape, int64.
        weight: embedding table; shape [V, E].
        drop_p: chance that a word's embedding is zero in this whole call, in [0, 1).
        seed: int64 tensor with one element.
        padding_idx: row that gets no gradient from the look-up.

    Returns:
        embedded: shape [*ids.shape, E].

    Source: Gal, Ghahramani 2016, arXiv:1512.05287.
    """
    scale = drop_connect(weight.new_ones(len(weight), 1), drop_p, seed)
    return F.embedding(ids, weight * scale, padding_idx)


def variational_dropout(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Drop features with one draw per row for all time steps.

    Args:
        x: shape [T, B, E].
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).
        seed: int64 tensor with one element; element (b, e) has index b * E + e.

    Returns:
        dropped: shape [T, B, E].
    """
    return x * drop_connect(torch.ones_like(x[0]), drop_p, seed)


def concat_pool(output: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Concatenate the last, the largest and the mean vector over each row's valid positions.

    Args:
        output: shape [B, T, E].
        start: first valid position of each row; int64, shape [B].
        end: one past the last valid position, start < end <= T; int64, shape [B].

    Returns:
        pooled: last, max, mean in this order; shape [B, 3E].
    """
    positions = torch.arange(output.shape[1], device=output.device)
    valid = ((positions >= start[:, None]) & (positions < end[:, None])).unsqueeze(2)
    last = output[torch.arange(len(output), device=output.device), end - 1]
    largest = output.masked_fill(~valid, float("-inf")).amax(dim=1)
    mean = output.masked_fill(~valid, 0.0).sum(dim=1) / (end - start).unsqueeze(1)
    return torch.cat([last, largest, mean.to(output.dtype)], dim=1)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    """Return the mean cross-entropy of a linear layer's logits.

    Args:
        hidden: shape [N, E].
        weight: shape [V, E].
        bias: shape [V] or None.
        targets: class of each row, int64, shape [N].
        ignore_index: rows with this target count for nothing.

    Returns:
        loss: scalar, float32 or wider; NaN when every target is ignored.
    """
    logits = F.linear(hidden, weight, bias).to(accumulation_dtype(hidden.dtype))
    return F.cross_entropy(logits, targets, ignore_index=ignore_index)
