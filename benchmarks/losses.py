"""linear_cross_entropy as a benchmark can call it: ours, and what it is held against.

Sizes: N tokens, E embedding size, V vocabulary. 16-bit hidden stands beside float32 weights, whose
gradients are float32, as in training.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import machine
import side_by_side
import torch
import torch.nn.functional as F
from torch import Tensor

from ulmfit_fast import _native, functional, reference

sys.path.append(str(machine.ROOT / "tests"))
import loss_calls

E = 400
IGNORED = loss_calls.IGNORED
#: Rows of a chunk of torch's own function: 256 to 1,024 were its best on a CPU.
CHUNK_ROWS = 1024
#: Rows and classes of the check before the timing; float64 at the real size takes minutes.
CHECKED = (130, 1030)
#: Takes hidden, weight, bias and targets.
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Point:
    """Tokens and classes."""

    N: int
    V: int

    def __str__(self) -> str:
        """Return the id that pytest shows."""
        return f"N{self.N}-V{self.V}"


def ours(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return functional.linear_cross_entropy(hidden, weight, bias, targets, IGNORED)


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    dtype = hidden.dtype
    logits = F.linear(hidden, weight.to(dtype), bias.to(dtype))
    wide = logits.to(reference.accumulation_dtype(dtype))
    return F.cross_entropy(wide, targets, ignore_index=IGNORED)


def chunked(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    from torch.nn import LinearCrossEntropyOptions

    options = LinearCrossEntropyOptions(batch_chunk_size=CHUNK_ROWS, chunking_method=None)
    dtype = hidden.dtype
    loss: Tensor = F.linear_cross_entropy(
        hidden,
        weight.to(dtype),
        targets,
        linear_bias=bias.to(dtype),
        ignore_index=IGNORED,
        options=options,
    )
    return loss


IMPLEMENTATIONS: dict[str, tuple[str, Loss]] = {
    "ulmfit_fast": ("functional.linear_cross_entropy", ours),
    "ulmfit_fast_graph": ("functional.linear_cross_entropy, replayed CUDA graph", ours),
    "torch": ("F.cross_entropy(F.linear(hidden, weight, bias).float())", plain),
    "torch_chunked": (f"F.linear_cross_entropy, {CHUNK_ROWS} rows a chunk", chunked),
}


def why_left_out(impl: str, device: str) -> str | None:
    """Return why an implementation cannot be measured here; None where it can."""
    if impl.startswith("ulmfit_fast"):
        reason = _native.why_missing("linear_cross_entropy_forward", device)
        return reason and f"no kernel to measure: {reason}"
    if impl == "torch_chunked" and not hasattr(F, "linear_cross_entropy"):
        return "F.linear_cross_entropy needs torch 2.13"
    return None


def why_too_large(point: Point, impl: str, device: str) -> str | None:
    """Return why a call does not fit into the memory that is free; None where it does."""
    rows = point.N if impl == "torch" else min(point.N, CHUNK_ROWS)
    needed, free = 4 * (3 * rows * point.V + 4 * point.V * E), machine.free_bytes(device)
    if needed <= free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def draw(point: Point, dtype: torch.dtype, device: str) -> loss_calls.Call:
    """Draw the tensors of a call; a weight that 16 bits are multiplied with is float32."""
    masters = dtype != torch.float32
    call = loss_calls.draw(
        loss_calls.Case((point.N, E, point.V), dtype, 2.0, 0.02, masters=masters)
    )
    moved = {name: getattr(call, name).to(device) for name in ("hidden", "weight", "targets")}
    bias = call.bias
    assert bias is not None
    return replace(call, **moved, bias=bias.to(device))


def peak_mib(call: Callable[[], object]) -> float | None:
    """Return how far a first call lifts this process's memory; None where no system tells.

    Scratch memory that outlives a call counts.
    """
    if not side_by_side.CLEAR_PEAK.is_file():
        return None
    before = side_by_side.resident_mib("VmRSS")
    side_by_side.CLEAR_PEAK.write_text("5")
    call()
    return round(side_by_side.resident_mib("VmHWM") - before, 1)


def build_call(impl: str, call: loss_calls.Call) -> Callable[[], tuple[Tensor, ...]]:
    """Return a call that computes the loss and the gradients of hidden, weight and bias."""
    loss_of = IMPLEMENTATIONS[impl][1]
    assert call.bias is not None
    leaves = [t.detach().requires_grad_() for t in (call.hidden, call.weight, call.bias)]

    def forward_and_backward() -> tuple[Tensor, ...]:
        loss = loss_of(leaves[0], leaves[1], leaves[2], call.targets)
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    return forward_and_backward


def check(impl: str, dtype: torch.dtype, device: str) -> tuple[float, str | None]:
    """Return the largest distance from float64, and why it is not timed: None if it may be.

    A wrong kernel of ours raises. A peer that is less exact than the criterion allows is not the
    same work: it is left out, with the reason.
    """
    call = draw(Point(*CHECKED), dtype, device)
    exact = build_call("torch", call.to(torch.float64))()
    torchs, found = build_call("torch", call)(), build_call(impl, call)()
    worst = 0.0
    for name, *three in zip(("loss", "dx", "dw", "db"), found, torchs, exact, strict=True):
        error, plains = (loss_calls.relative_error(each, three[2]) for each in three[:2])
        worst = max(worst, error)
        if error <= 2 * plains + loss_calls.FLOOR[dtype]:
            continue
        wrong = f"{impl} {name}: error {error:.3g}, {plains:.3g} of plain PyTorch"
        assert not impl.startswith("ulmfit_fast"), wrong
        return math.inf, f"less exact than the criterion allows: {wrong}"
    return worst, None


def n_flops(point: Point) -> int:
    """Return the operations of the three products that have to be; a fourth is our own choice."""
    return 6 * point.N * E * point.V


def n_bytes(point: Point, dtype: torch.dtype) -> int:
    """Return the bytes that must be read and written if every tensor moves once a pass."""
    size, wide = dtype.itemsize, 4
    hidden, weight = point.N * E, point.V * (E + 1)
    # Both passes read hidden, weight and the targets; backward writes their gradients.
    return 3 * size * hidden + 3 * wide * weight + 2 * 8 * point.N
