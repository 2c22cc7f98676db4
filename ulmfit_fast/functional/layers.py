"""Dropouts, activation regularisation and pooling."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast import _native
from ulmfit_fast.functional.masks import (
    check_drop_p,
    check_floats,
    check_number,
    check_seed,
    check_tensor,
)

#: Kernels count the positions of a row in 32 bits.
MOST_POSITIONS = 2**31 - 1


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
        padding_idx: row that gets no gradient from the look-up; negative ones count from the end.

    Returns:
        embedded: shape [*ids.shape, E].

    Raises:
        ValueError: drop_p outside [0, 1), a missing seed, ids that are not int64, or one that the
            table has no row for.

    Numbers: the gradient's sums are float32 or wider, in a fixed order.
    Source: Gal, Ghahramani 2016, arXiv:1512.05287; specification in reference.embedding_dropout.
    """
    check_drop_p(drop_p)
    check_floats("weight", weight)
    if weight.dim() != 2:
        raise ValueError(f"weight: expected shape [V, E], found {list(weight.shape)}")
    if drop_p > 0:
        check_seed(seed, "weight", weight.device)
    check_tensor("ids", ids, weight)
    check_ids(ids, len(weight))
    if padding_idx is not None:
        check_number("padding_idx", padding_idx)
        if not -len(weight) <= padding_idx < len(weight):
            found = f"found {padding_idx} for {len(weight)} rows"
            raise ValueError(f"padding_idx: expected a row of the table, {found}")
        padding_idx %= len(weight)
    _native.require_kernel("embedding_dropout", weight.device)
    embedded: Tensor = torch.ops.ulmfit_fast.embedding_dropout(
        ids, weight, drop_p, seed if drop_p > 0 else None, padding_idx
    )
    return embedded


def variational_dropout(x: Tensor, drop_p: float, seed: Tensor | None) -> Tensor:
    """Drop features with one draw per row for all time steps.

    Args:
        x: shape [T, B, E].
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).
        seed: int64 tensor with one element, on x's device; None only where drop_p is 0.

    Returns:
        dropped: shape [T, B, E]; x itself where drop_p is 0.

    Raises:
        ValueError: x is not [T, B, E], drop_p outside [0, 1), or a missing seed.
    """
    _check_sequence(x)
    check_drop_p(drop_p)
    if drop_p == 0:
        return x
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
    check_number("alpha", alpha)
    check_number("beta", beta)
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
        ValueError: output is not [B, T, E], or start and end are not int64 tensors of shape [B]
            with, where it can be seen, such values.

    Numbers: sums in float32 or wider; the gradient of the largest goes to its first position.
    """
    check_floats("output", output)
    if output.dim() != 3:
        raise ValueError(f"output: expected shape [B, T, E], found {list(output.shape)}")
    if output.shape[1] > MOST_POSITIONS:
        found = f"found {output.shape[1]}; cut the rows"
        raise ValueError(f"output: expected at most {MOST_POSITIONS} positions, {found}")
    for name, positions in (("start", start), ("end", end)):
        check_tensor(name, positions, output)
        if positions.shape != output.shape[:1]:
            found = f"found {list(positions.shape)}"
            raise ValueError(f"{name}: expected shape [{len(output)}], {found}")
        if positions.dtype != torch.int64:
            raise ValueError(f"{name}: expected int64, found {positions.dtype}; call .long()")
    seen = {start.device.type, end.device.type} == {"cpu"}
    if seen and not torch.compiler.is_compiling():
        wrong = ((start < 0) | (start >= end) | (end > output.shape[1])).nonzero()
        if len(wrong):
            row = int(wrong[0])
            found = f"found {int(start[row])} and {int(end[row])} in row {row}"
            raise ValueError(f"start, end: expected 0 <= start < end <= {output.shape[1]}, {found}")
    _native.require_kernel("concat_pool", output.device)
    pooled: Tensor = torch.ops.ulmfit_fast.concat_pool(output, start, end)[0]
    return pooled


def _check_sequence(x: Tensor) -> None:
    """Raise ValueError unless x is [T, B, E], of a dtype that the kernels know."""
    check_floats("x", x)
    if x.dim() != 3:
        raise ValueError(f"x: expected shape [T, B, E], found {list(x.shape)}")


def check_ids(ids: Tensor, n_rows: int, name: str = "ids", ignore: int | None = None) -> None:
    """Raise ValueError naming the first id that a table of n_rows has no row for, and its place.

    Only on a CPU, and not in a trace: elsewhere looking would wait.

    Args:
        ids: int64, any shape.
        n_rows: rows of the table.
        name: of the argument, for the message.
        ignore: an id that needs no row; None for none.
    """
    if ids.dtype != torch.int64:
        raise ValueError(f"{name}: expected int64, found {ids.dtype}; call {name}.long()")
    if ids.device.type != "cpu" or ids.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (int(value) for value in ids.aminmax())
    if low >= 0 and high < n_rows:
        return
    wrong = (ids < 0) | (ids >= n_rows)
    if ignore is not None:
        wrong &= ids != ignore
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        found = f"found {int(ids[tuple(place)])} at {place}"
        raise ValueError(
            f"{name}: expected 0..{n_rows - 1}, one for each row of the table; {found}"
        )
