"""linear_cross_entropy forward and backward at the sizes of a language model's softmax.

N 4480 is T 70 by B 64, N 4608 is T 72 by B 64; E 400. Without an option N 4480 runs; --grid full
adds N 4608. --quick runs tiny sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import losses
import pytest
import timing
import torch
from conftest import Case
from losses import Point

MODES = ("forward+backward",)
DTYPES = (torch.float32, torch.bfloat16)
POINTS = [Point(4480, 60_000), Point(4480, 30_000)]
MORE_POINTS = [Point(4608, 60_000), Point(4608, 30_000)]
QUICK = [Point(12, 50)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Lay out the points in the order in which they matter."""
    option = metafunc.config.getoption
    points = QUICK if option("--quick") else POINTS
    if option("--grid") == "full" and not option("--quick"):
        points = [*points, *MORE_POINTS]
    impls = [i for i in losses.IMPLEMENTATIONS if option("--device") == "cuda" or "graph" not in i]
    cases = list(itertools.product(points, MODES, DTYPES, impls))
    names = [f"{p}-{m}-{str(d).removeprefix('torch.')}-{i}" for p, m, d, i in cases]
    metafunc.parametrize(("point", "mode", "dtype", "impl"), cases, ids=names)


def test_loss(
    measure: Callable[[Case, Callable[[], object]], None],
    benchmark: Any,
    device: str,
    point: Point,
    mode: str,
    dtype: torch.dtype,
    impl: str,
) -> None:
    reason = losses.why_left_out(impl, device) or losses.why_too_large(point, impl, device)
    if reason is not None:
        pytest.skip(reason)
    error, reason = losses.check(impl, dtype, device)
    if reason is not None:
        pytest.skip(reason)
    # The gradients alone are larger than any cache: inputs need not rotate.
    call = losses.build_call(impl, losses.draw(point, dtype, device))
    timed = timing.captured(call) if impl.endswith("_graph") else call
    sizes, what = {"N": point.N, "E": losses.E, "V": point.V}, losses.IMPLEMENTATIONS[impl][0]
    moved, multiplied = losses.n_bytes(point, dtype), losses.n_flops(point)
    case = Case("linear_cross_entropy", mode, impl, what, dtype, sizes, moved, error, multiplied)
    if device == "cpu":  # on a GPU the fixture asks torch
        benchmark.extra_info["peak_mib"] = losses.peak_mib(call)
    measure(case, timed)
