"""The tied softmax's loss, without its logits in memory."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ulmfit_fast import _native
from ulmfit_fast.functional.masks import check_floats, check_number, check_tensor
from ulmfit_fast.reference import accumulation_dtype

REDUCTIONS = ("mean", "sum", "none")


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy of a linear layer's logits, which never exist as a whole.

    Equivalent to: F.cross_entropy(F.linear(hidden, weight, bias), targets, ignore_index=...,
    label_smoothing=..., reduction=...)

    Args:
        hidden: shape [N, E]; float32, bfloat16, float16 or float64.
        weight: shape [V, E]; of hidden's dtype, or float32 beside 16-bit hidden: products then take
            it rounded, and its gradient is float32.
        bias: shape [V], of weight's dtype, or None.
        targets: class of each row, int64, shape [N]. On the CPU the values are checked; on another
            device, where looking would wait for it, a target outside 0..V-1 makes the loss NaN.
        ignore_index: rows with this target count for nothing.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
        reduction: "mean" over the rows that count, "sum", or "none".

    Returns:
        loss: scalar, or [N] with 0 where ignored; float32 or wider; nats. NaN for the mean of no
            rows, with gradients of 0.

    Raises:
        ValueError: an argument whose shape, dtype, device or value does not fit the others.
        RuntimeError: no kernel for hidden's device; the message says why and what to run.

    Numbers: sums in float32 (float64 for float64); of the logits a part exists at a time, on the
        CPU those of 512 rows at most. Under autocast hidden is cast, as by F.linear. One
        derivative. The same bits for the same input, machine and number of threads.
    Source: specification in reference/loss.py; cf. Wijmans et al. 2024, arXiv:2411.09009.
    """
    _check(hidden, weight, bias, targets, reduction)
    _check_numbers(ignore_index, label_smoothing)
    device = hidden.device
    has_values = device.type != "meta"  # nor has meta an autocast to ask about
    if has_values and torch.is_autocast_enabled(device.type) and hidden.dtype != torch.float64:
        hidden = hidden.to(torch.get_autocast_dtype(device.type))
    _check_dtypes(hidden, weight, bias)
    if device.type == "cpu" and not torch.compiler.is_compiling():
        _check_targets(targets, len(weight), ignore_index)
    _native.require_kernel("linear_cross_entropy_forward", device)
    # On a CPU a fourth product costs a third more time, so the gradient is made at once; on a GPU
    # it costs less than holding the gradient until it is asked for.
    # Nor in float16, where a gradient that is scaled later has lost what is small.
    small = hidden.dtype == torch.float16
    at_once = device.type == "cpu" and torch.is_grad_enabled() and reduction != "none" and not small
    need_dw = weight.requires_grad or (bias is not None and bias.requires_grad)
    with torch.autocast(device.type, enabled=False) if has_values else nullcontext():
        loss: Tensor = torch.ops.ulmfit_fast.linear_cross_entropy_forward(
            hidden, weight, bias, targets, ignore_index, label_smoothing, reduction,
            at_once and hidden.requires_grad, at_once and need_dw,
        )[0]  # fmt: skip
    return loss


def _check(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: str
) -> None:
    """Raise ValueError naming the first argument whose shape or device does not fit."""
    check_tensor("hidden", hidden)
    check_tensor("weight", weight)
    check_tensor("targets", targets)
    if bias is not None:
        check_tensor("bias", bias)
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        found = f"{list(hidden.shape)} and {list(weight.shape)}"
        raise ValueError(f"hidden, weight: expected shapes [N, E] and [V, E], found {found}")
    if 0 in weight.shape:
        at_least = "expected at least one class and one feature"
        raise ValueError(f"weight: {at_least}, found {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape [{len(weight)}], found {list(bias.shape)}")
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets: expected shape [{len(hidden)}], found {list(targets.shape)}")
    if targets.dtype != torch.int64:
        raise ValueError(f"targets: expected int64, found {targets.dtype}; call targets.long()")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, found {reduction!r}")
    for name, tensor in (("weight", weight), ("bias", bias), ("targets", targets)):
        if tensor is not None and tensor.device != hidden.device:
            expected = f"expected on {hidden.device} beside hidden"
            raise ValueError(f"{name}: {expected}, found on {tensor.device}")


def _check_numbers(ignore_index: int, label_smoothing: float) -> None:
    """Raise ValueError unless they are a whole number and a share."""
    check_number("label_smoothing", label_smoothing)
    if not isinstance(ignore_index, int) or abs(ignore_index) >= 2**63:
        raise ValueError(f"ignore_index: expected a whole number, found {ignore_index!r:.40}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing: expected a share in [0, 1], found {label_smoothing}")


def _check_dtypes(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise ValueError unless weight and bias have one dtype, hidden's or the wider one."""
    if not hidden.is_floating_point():
        raise ValueError(f"hidden: expected a floating-point tensor, found {hidden.dtype}")
    check_floats("hidden", hidden)
    wide = accumulation_dtype(hidden.dtype)
    if weight.dtype not in (hidden.dtype, wide):
        expected = f"expected {hidden.dtype} like hidden"
        expected += "" if wide == hidden.dtype else f", or {wide}"
        raise ValueError(f"weight: {expected}, found {weight.dtype}")
    if bias is not None and bias.dtype != weight.dtype:
        raise ValueError(f"bias: expected {weight.dtype} like weight, found {bias.dtype}")


def _check_targets(targets: Tensor, n_classes: int, ignore_index: int) -> None:
    """Raise ValueError naming the first target that is no class and not ignored."""
    wrong = ((targets < 0) | (targets >= n_classes)) & (targets != ignore_index)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        expected = f"expected 0..{n_classes - 1}, or {ignore_index} to ignore the row"
        raise ValueError(f"targets: {expected}; found {int(targets[row])} at row {row}")
