"""What is measured: its sizes, its calls, and how its results are checked before it is timed.

T time steps, B batch rows, H hidden units, E embedding size, V vocabulary, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ulmfit_fast.bench.clock import Call

OURS = "ulmfit_fast"
#: Size of an AWD-LSTM's embedding.
E = 400
#: Allowed beyond twice torch's own error, as in the tests: 4 eps of float32, a quarter of
#: bfloat16's.
FLOOR = {torch.float32: 5e-7, torch.bfloat16: 2e-3}


@dataclass(frozen=True)
class Size:
    """Sizes of a measurement; those that it does not have are 0."""

    T: int = 0
    B: int = 0
    H: int = 0
    V: int = 0

    def __str__(self) -> str:
        """Return the sizes for people."""
        return ", ".join(f"{name} {value:,}" for name, value in self.named().items())

    def named(self) -> dict[str, int]:
        """Return legend letter -> size, of those that there are."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Check:
    """How far our results are from float64's.

    Attributes:
        error: the largest of all results, relative.
        allowed: for that result: twice the error of torch, and a floor.
    """

    error: float
    allowed: float

    @property
    def is_right(self) -> bool:
        """Whether the result may be timed; NaN is not right."""
        return self.error <= self.allowed


@dataclass(frozen=True)
class Kind:
    """Something that is measured.

    Attributes:
        name: for JSON.
        title: for people.
        share: of the time.
        sizes: the largest first; a slow machine gets a smaller one.
        dtypes: to measure in.
        cost: operations of a size, or what grows like its time.
        n_bytes: memory of a size, about.
        build: makes a call for each implementation, ours first.
        check: compares results with float64's, at a size of its own.
    """

    name: str
    title: str
    share: float
    sizes: Sequence[Size]
    dtypes: Sequence[torch.dtype]
    cost: Callable[[Size], float]
    n_bytes: Callable[[Size], float]
    build: Callable[[Size, torch.dtype, torch.device], Mapping[str, Call]]
    check: Callable[[torch.dtype, torch.device], Check]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Return ||found - exact|| / ||exact||."""
    distance = (found.detach().double() - exact.detach().double()).norm()
    return float(distance / exact.detach().double().norm().clamp(min=1e-300))


def compare(
    ours: Sequence[Tensor], plain: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype
) -> Check:
    """Return the check of the result that is furthest from what it is allowed.

    Args:
        ours: results, such as a loss and its gradients.
        plain: the same of torch in the same dtype.
        exact: the same of torch in float64, from the same inputs.
        dtype: of the inputs.
    """
    checks = [
        Check(relative_error(o, e), 2 * relative_error(p, e) + FLOOR[dtype])
        for o, p, e in zip(ours, plain, exact, strict=True)
    ]
    return max(checks, key=lambda c: c.error / c.allowed if c.error == c.error else torch.inf)


def name_of(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")
