"""Calls of dropouts, regularisation, pooling and embeddings, and the criterion they are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numerics import FLOOR, relative_error
from torch import Tensor

from ulmfit_fast import reference

SEED = torch.tensor([2**40 + 3])
V = 9
OPS = (
    "variational_dropout",
    "activation_regularization",
    "activation_regularization_backward",
    "concat_pool",
    "concat_pool_backward",
    "embedding_dropout",
    "embedding_dropout_backward",
)
#: Results that are not sums have the bits of the reference.
EXACT = (("variational_dropout", 0), ("activation_regularization", 0), ("embedding_dropout", 0))


@dataclass(frozen=True)
class Case:
    """One kind of call of every op.

    Attributes:
        shape: T, B, E.
        drop_p: None leaves out the seed, where an op can.
        layout: "contiguous", "batch first" (dense, its rows side by side) or "strided".
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype = torch.float32
    drop_p: float | None = 0.3
    layout: str = "contiguous"

    def __str__(self) -> str:
        shape = "T{}-B{}-E{}".format(*self.shape)
        return f"{shape}-{str(self.dtype)[6:]}-{self.drop_p}-{self.layout}"


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the same tensor in another layout; what lies between its elements is NaN."""
    if layout == "batch first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided":
        buffer = torch.full([2 * size + 1 for size in x.shape], torch.nan, dtype=x.dtype)
        strided = buffer[tuple(slice(1, None, 2) for _ in x.shape)]
        return strided.copy_(x)
    return x


def draw(case: Case) -> dict[str, tuple[Any, ...]]:
    """Return arguments of every op; float64 sees the same numbers as the case's dtype."""
    T, B, E = case.shape
    generator = torch.Generator().manual_seed(1)

    def normal(*size: int) -> Tensor:
        return laid_out(torch.randn(*size, generator=generator).to(case.dtype), case.layout)

    x, d_dropped = normal(T, B, E), normal(T, B, E)
    ids = torch.randint(0, V, (B, T), generator=generator).t()
    start = torch.randint(0, T, (B,), generator=generator)
    end = start + 1 + (torch.rand(B, generator=generator) * (T - start)).long()
    argmax = (start + end).div(2, rounding_mode="floor")[:, None].repeat(1, E)
    penalty = torch.tensor(1.5, dtype=reference.accumulation_dtype(case.dtype))
    drop_p = case.drop_p or 0.0
    seed = None if case.drop_p is None else SEED
    regularize = (x, drop_p, seed, 2.0, 1.0)
    return {
        "variational_dropout": (x, drop_p, SEED),
        "activation_regularization": regularize,
        "activation_regularization_backward": (
            x.new_empty(0) if seed is None else d_dropped,
            penalty,
            *regularize,
        ),
        "concat_pool": (x.transpose(0, 1), start, end),
        "concat_pool_backward": (normal(B, 3 * E), argmax, start, end, T),
        "embedding_dropout": (ids, normal(V, E), drop_p, seed, 2),
        "embedding_dropout_backward": (d_dropped, ids, V, drop_p, seed, 2),
    }


def run(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Tensor]:
    """Return the results of an op, however many it has."""
    result = function(*arguments)
    return [result] if isinstance(result, Tensor) else list(result)


def to(arguments: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Return the arguments with everything that floats in one dtype."""
    return tuple(
        a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments
    )


def check(function: Callable[..., Any], op: str, arguments: tuple[Any, ...]) -> None:
    """Hold an implementation of an op to the criterion of numerics.py.

    float64 has nothing wider to be held against: what float32 loses, in units of eps, is allowed.
    """
    found, plain = run(function, arguments), run(getattr(reference, op), arguments)
    exact = run(getattr(reference, op), to(arguments, torch.float64))
    if op == "activation_regularization" and exact[0].numel():
        # The squares are those of dropped as it is stored; TAR is what is left without AR.
        *same, alpha, _ = to(arguments, torch.float64)
        jumps = run(reference.activation_regularization, (*same, 0.0, arguments[-1]))[1]
        exact[1] = alpha * plain[0].double().square().mean() + jumps
    for i, (result, expected, wide) in enumerate(zip(found, plain, exact, strict=True)):
        name = f"result {i} of {op}"
        assert result.is_contiguous(), name
        assert result.dtype == expected.dtype, name
        if (op, i) in EXACT or not expected.is_floating_point():
            assert torch.equal(result, expected), name
            continue
        allowed = relative_error(expected, wide)
        if result.dtype == torch.float64:
            single = run(getattr(reference, op), to(arguments, torch.float32))[i]
            allowed = relative_error(single, wide) * 2**-29
        error, allowed = relative_error(result, wide), 2 * allowed + FLOOR[result.dtype]
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
