"""Dropouts, activation regularisation and pooling."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast import _native
from ulmfit_fast.functional.masks import check_drop_p, check_seed
from ulmfit_fast.reference import accumulation_dtype


def embedding_dropout(
    ids: Tensor,
    weight: Tensor,
    drop_p: float,
    seed: Tensor | None,
    padding_idx: int | None = None,
) -> Tensor:
    """Look up embeddings with whole words dropped, without a copy of the table.

    Equivalent to: F.embedding(ids, weight * m[:, None], padding_idx), m = keep / (1 - drop_p)

    Args:
        ids: token ids, any shape, int64. On the CPU the values are checked; on another device,
            where looking would wait for it, an id outside 0..V-1 gives NaN.
        weight: embedding table; shape [V, E].
        drop_p: chance that a word's embedding is zero in this whole call, in [0, 1).
        seed: int64 tensor with one element, on weight's device; None only where drop_p is 0.
        padding_idx: row that gets no gradient from the look-up.

    Returns:
        embedded: shape [*ids.shape, E].

    Raises:
        ValueError: drop_p outside [0, 1), a missing seed, or an id that the table has no row for.

    Numbers: the gradient's sums are float32 or wider, in a fixed order.
    Source: Gal, Ghahramani 2016, arXiv:1512.05287; specification in reference.embedding_dropout.
    """
    check_drop_p(drop_p)
    if drop_p > 0:
        check_seed(seed, "weight", weight.device)
    if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
        _check_ids(ids, len(weight))
    _native.require_kernel("embedding_dropout", weight.device)
    embedded: Tensor = torch.ops.ulmfit_fast.embedding_dropout(
        ids, weight, drop_p, seed if drop_p > 0 else None, padding_idx
    )
    return embedded


def word_dropout(
    embedded: Tensor, ids: Tensor, n_words: int, drop_p: float, seed: Tensor
) -> Tensor:
    """Drop the words that embedding_dropout would have dropped in looking them up.

    Equivalent to: embedding_dropout(ids, weight, drop_p, seed), embedded = F.embedding(ids, weight)

    For a look-up that several masks share: its gradient is then made once for all of them.

    Args:
        embedded: embeddings of ids; shape [*ids.shape, E].
        ids: token ids, any shape, int64; checked as by embedding_dropout.
        n_words: rows of the table, V.
        drop_p: chance that a word's embedding is zero in this whole call, in [0, 1).
        seed: int64 tensor with one element, on embedded's device.

    Returns:
        dropped: zeros, of either sign, where a word is dropped; shape [*ids.shape, E].

    Raises:
        ValueError: shapes that do not fit, drop_p outside [0, 1), a missing seed, or an id that
            is not below n_words.

    Numbers: the same values as embedding_dropout's. The gradient is 0 where a word is dropped.
    """
    if embedded.shape[:-1] != ids.shape:
        expected = f"expected shape {[*ids.shape, 'E']} beside ids"
        raise ValueError(f"embedded: {expected}, found {list(embedded.shape)}")
    # A table of ones gives the factors: 0, or 1 / (1 - drop_p), float32 or wider as in the op.
    ones = embedded.new_ones(n_words, 1, dtype=accumulation_dtype(embedded.dtype))
    factors = embedding_dropout(ids, ones, drop_p, seed)
    return (embedded * factors).to(embedded.dtype)


def variational_dropout(x: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Drop features with one draw per row for all time steps.

    Args:
        x: shape [T, B, E].
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).
        seed: int64 tensor with one element, on x's device.

    Returns:
        dropped: shape [T, B, E].

    Raises:
        ValueError: x is not [T, B, E], or drop_p outside [0, 1).
    """
    _check_sequence(x)
    check_drop_p(drop_p)
    check_seed(seed, "x", x.device)
    _native.require_kernel("variational_dropout", x.device)
    dropped: Tensor = torch.ops.ulmfit_fast.variational_dropout(x, drop_p, seed)
    return dropped


def activation_regularization(
    x: Tensor, alpha: float, beta: float, drop_p: float = 0.0, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Drop features like variational_dropout, and penalise large and jumping activations.

    Args:
        x: output of the last layer; shape [T, B, E].
        alpha: weight of the activation term (AR), mean(dropped ** 2).
        beta: weight of the temporal term (TAR), mean((x[t + 1] - x[t]) ** 2); 0 where T is 1.
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).
        seed: int64 tensor with one element, on x's device; None only where drop_p is 0.

    Returns:
        dropped: shape [T, B, E]; x itself where drop_p is 0.
        penalty: alpha * AR + beta * TAR; scalar, float32 or wider.

    Raises:
        ValueError: x is not [T, B, E], drop_p outside [0, 1), or a missing seed.

    Source: Merity, McCann, Socher 2017, arXiv:1708.01009.
    """
    _check_sequence(x)
    check_drop_p(drop_p)
    if drop_p > 0:
        check_seed(seed, "x", x.device)
    _native.require_kernel("activation_regularization", x.device)
    dropped, penalty = torch.ops.ulmfit_fast.activation_regularization(
        x, drop_p, seed if drop_p > 0 else None, alpha, beta
    )
    return (dropped if drop_p > 0 else x), penalty


def concat_pool(output: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Concatenate the last, the largest and the mean vector over each row's valid positions.

    Args:
        output: shape [B, T, E], any strides.
        start: first valid position of each row; int64, shape [B].
        end: one past the last valid position, start < end <= T; int64, shape [B].

    Returns:
        pooled: last, max, mean in this order; shape [B, 3E].

    Raises:
        ValueError: output is not [B, T, E], or start and end are not [B].

    Numbers: sums in float32 or wider; the gradient of the largest goes to its first position.
    """
    if output.dim() != 3:
        raise ValueError(f"output: expected shape [B, T, E], found {list(output.shape)}")
    for name, positions in (("start", start), ("end", end)):
        if positions.shape != output.shape[:1]:
            found = f"found {list(positions.shape)}"
            raise ValueError(f"{name}: expected shape [{len(output)}], {found}")
    _native.require_kernel("concat_pool", output.device)
    pooled: Tensor = torch.ops.ulmfit_fast.concat_pool(output, start, end)[0]
    return pooled


def _check_sequence(x: Tensor) -> None:
    """Raise ValueError unless x is [T, B, E]."""
    if x.dim() != 3:
        raise ValueError(f"x: expected shape [T, B, E], found {list(x.shape)}")


def _check_ids(ids: Tensor, n_rows: int) -> None:
    """Raise ValueError naming the first id that a table of n_rows has no row for."""
    low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high >= n_rows:
        place = ((ids < 0) | (ids >= n_rows)).nonzero()[0].tolist()
        found = f"found {int(ids[tuple(place)])} at {place}"
        raise ValueError(f"ids: expected 0..{n_rows - 1}, one for each row of the table; {found}")
