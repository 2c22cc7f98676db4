"""The weight-dropped LSTM: one layer H -> H and an AWD-LSTM's stack 400 -> H -> H -> 400.

Without an option the points of CPU_POINTS run, in float32 and bfloat16, or on a GPU the whole grid
in bfloat16 and its T 70 in float32 and float16; most wanted first, until --minutes are over.
--quick runs tiny sizes. --grid full is T 70, 350, 1400 by B 1, 16, 64, 128 by H 400, 1152 in every
dtype and with the reference everywhere: hours on a CPU, with --minutes 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import lstm_networks as networks
import machine
import pytest
import timing
import torch
from conftest import Case
from lstm_networks import IMPLEMENTATIONS, Point

MODES = ("forward+backward", "forward")
SIZES = list(itertools.product((70, 350, 1400), (64, 16, 1, 128), (1152, 400)))
FULL = [Point(*sizes, stack=stack) for sizes in SIZES for stack in (False, True)]
QUICK = [Point(3, 2, 16), Point(3, 2, 16, stack=True)]
CPU_POINTS = [
    Point(70, 64, 1152),
    Point(70, 64, 400),
    Point(70, 1, 1152),
    Point(70, 64, 1152, stack=True),
    Point(70, 16, 1152),
    Point(350, 16, 400),
    Point(70, 128, 400),
    Point(1400, 1, 400),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IMPLS = ("ulmfit_fast", "ulmfit_fast_graph", "torch", "torch_undropped", "triton", "reference")
GPU_IMPLS = ("ulmfit_fast_graph", "triton")
#: Where the reference, several times slower than all others, is timed outside the full grid.
REFERENCE_POINTS = [*QUICK, Point(70, 64, 1152)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Lay out the points in the order in which they matter."""
    option = metafunc.config.getoption
    device = option("--device")
    whole = option("--grid") == "full"
    points = QUICK if option("--quick") else FULL if whole or device == "cuda" else CPU_POINTS
    cases = [
        (point, mode, dtype, impl)
        for point, mode, dtype, impl in itertools.product(points, MODES, DTYPES, IMPLS)
        if (whole or is_default(point, dtype, impl, device))
        and (device == "cuda" or impl not in GPU_IMPLS)
    ]
    names = [f"{p}-{m}-{str(d).removeprefix('torch.')}-{i}" for p, m, d, i in cases]
    metafunc.parametrize(("point", "mode", "dtype", "impl"), cases, ids=names)


def is_default(point: Point, dtype: torch.dtype, impl: str, device: str) -> bool:
    """Say whether a case is measured without --grid full."""
    if impl == "reference" and point not in REFERENCE_POINTS:
        return False
    if device == "cpu":
        return dtype != torch.float16  # no processor with AVX-512 alone multiplies it
    return dtype == torch.bfloat16 or point.T <= 70


def test_lstm(
    measure: Callable[[Case, Callable[[], object]], None],
    device: str,
    quick: bool,
    point: Point,
    mode: str,
    dtype: torch.dtype,
    impl: str,
) -> None:
    base, backward = impl.removesuffix("_graph"), mode == "forward+backward"
    reason = networks.why_left_out(base, device) or networks.why_too_large(
        point, dtype, backward, device
    )
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(1)
    error, reason = networks.check_or_leave_out(base, point, dtype, device)
    if reason is not None:
        pytest.skip(reason)
    n_bytes, n_flops = point.n_bytes(dtype, backward), point.n_flops(backward)
    # Inputs rotate through twice the cache, so that none is found there.
    n_rotated = 1 if quick else -(-2 * machine.cache_bytes(device) // point.n_bytes_inputs(dtype))
    calls = [networks.build_call(base, point, dtype, backward, device) for _ in range(n_rotated)]
    what = IMPLEMENTATIONS[base].what
    if base != impl:
        calls, what = [timing.captured(call) for call in calls], f"{what}, replayed CUDA graph"
    case = Case(point.op, mode, impl, what, dtype, point.sizes(), n_bytes, error, n_flops)
    rotation = itertools.cycle(calls)
    measure(case, lambda: next(rotation)())
