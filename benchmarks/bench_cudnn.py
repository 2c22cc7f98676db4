"""nn.LSTM as cuDNN runs it at the sizes that every later target is a ratio to; needs a GPU.

float16 with I = H = 1024 and one layer is cuDNN's persistent kernel, its best; at H 1152 PyTorch
takes the standard one, and in bfloat16 always.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import lstm_networks as networks
import machine
import pytest
import torch
from conftest import Case
from lstm_networks import Point
from torch import nn

MODES = ("forward+backward", "forward")
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Row:
    """One line of the table: a layer, or one nn.LSTM of n_layers layers, H -> H."""

    H: int
    dtype: torch.dtype
    dropped: bool = False
    n_layers: int = 1

    def __str__(self) -> str:
        """Return the id that pytest shows."""
        kind = "dropped" if self.dropped else "undropped"
        return f"L{self.n_layers}-H{self.H}-{str(self.dtype).removeprefix('torch.')}-{kind}"


ROWS = [
    *(Row(1152, dtype, dropped) for dtype in HALVES for dropped in (True, False)),
    Row(1024, torch.float16),
    Row(1024, torch.float16, dropped=True),
    Row(1024, torch.bfloat16),
    *(Row(1152, dtype, n_layers=3) for dtype in HALVES),
]


def build_call(row: Row, point: Point, backward: bool, device: str) -> Callable[[], object]:
    """Return a call of nn.LSTM on random inputs, like lstm_networks.build_call."""
    if row.n_layers == 1:
        impl = "torch" if row.dropped else "torch_undropped"
        return networks.build_call(impl, point, row.dtype, backward, device)
    lstm = nn.LSTM(row.H, row.H, row.n_layers, device=device, dtype=row.dtype)
    shape = point.T, point.B, row.H
    x = torch.randn(shape, device=device).to(row.dtype).requires_grad_(backward)
    dy = torch.randn(shape, device=device).to(row.dtype)

    def forward_only() -> object:
        with torch.no_grad():
            return lstm(x)

    def forward_and_backward() -> object:
        return torch.autograd.grad(lstm(x)[0], [x, *lstm.parameters()], dy)

    return forward_and_backward if backward else forward_only


@pytest.mark.parametrize("B", [64, 128, 16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_cudnn(
    measure: Callable[[Case, Callable[[], object]], None],
    device: str,
    row: Row,
    mode: str,
    B: int,
) -> None:
    if device != "cuda":
        pytest.skip("cuDNN needs --device cuda")
    point, backward = Point(70, B, row.H), mode == "forward+backward"
    reason = networks.why_too_large(point, row.dtype, backward, device)
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(1)
    impl = "torch" if row.dropped else "torch_undropped"
    error, reason = networks.check_or_leave_out(impl, point, row.dtype, device)
    if reason is not None:
        pytest.skip(reason)
    n_rotated = -(-2 * machine.cache_bytes(device) // point.n_bytes_inputs(row.dtype))
    rotation = itertools.cycle([build_call(row, point, backward, device) for _ in range(n_rotated)])
    n_bytes = row.n_layers * point.n_bytes(row.dtype, backward)
    n_flops = row.n_layers * point.n_flops(backward)
    what, sizes = networks.IMPLEMENTATIONS[impl].what, {"L": row.n_layers, **point.sizes()}
    case = Case("nn.LSTM", mode, impl, what, row.dtype, sizes, n_bytes, error, n_flops)
    measure(case, lambda: next(rotation)())
