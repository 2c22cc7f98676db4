"""Masks that are functions of a seed: draws of seeds, and the dropped weight."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast import _native

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def draw_seeds(n: int, device: torch.device | str) -> Tensor:
    """Draw n mask seeds from the device's default generator; int64, shape [n], no host sync."""
    return torch.randint(2**63 - 1, (n,), device=device)


def drop_connect(weight: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Zero each element with chance drop_p and rescale the rest by 1 / (1 - drop_p).

    Equivalent to: F.dropout(weight, drop_p), with a mask that is a function of the seed.

    Args:
        weight: any shape and strides; float32, float64, bfloat16 or float16.
        drop_p: chance that an element is zero, in [0, 1).
        seed: int64 tensor with one element, on weight's device.

    Returns:
        dropped: contiguous tensor of weight's shape and dtype.

    Raises:
        ValueError: drop_p outside [0, 1), or a seed of another dtype, size or device.
        RuntimeError: no kernel for weight's device; the message says why and what to run.

    Numbers: the same bits on every backend. Layout of the mask: reference/masks.py.
    """
    check_drop_p(drop_p)
    check_tensor("weight", weight)
    if not weight.is_floating_point():
        raise ValueError(f"weight: expected a floating-point tensor, found {weight.dtype}")
    check_floats("weight", weight)
    check_seed(seed, "weight", weight.device)
    _native.require_kernel("drop_connect", weight.device)
    dropped: Tensor = torch.ops.ulmfit_fast.drop_connect(weight, drop_p, seed)
    return dropped


def check_tensor(name: str, tensor: object, beside: Tensor | None = None) -> None:
    """Raise ValueError unless an argument is a dense tensor, on the device of another one.

    Args:
        name: of the argument.
        tensor: what was given.
        beside: the tensor whose device it must be on; None for any.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a tensor, found {type(tensor).__name__}; give one")
    if tensor.layout != torch.strided:
        found = f"found {tensor.layout}; call {name}.to_dense()"
        raise ValueError(f"{name}: expected a dense tensor, {found}")
    if beside is not None and tensor.device != beside.device:
        found = f"found on {tensor.device}; move one of the two"
        raise ValueError(f"{name}: expected on {beside.device}, {found}")


def check_floats(name: str, tensor: object) -> None:
    """Raise ValueError unless an argument is a dense tensor of a dtype that the kernels know."""
    check_tensor(name, tensor)
    if isinstance(tensor, Tensor) and tensor.dtype not in FLOATS:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
        raise ValueError(f"{name}: expected one of {known}, found {tensor.dtype}; convert it")


def check_number(name: str, number: object) -> None:
    """Raise ValueError unless an argument is a number."""
    if not isinstance(number, int | float | torch.SymInt | torch.SymFloat):
        raise ValueError(f"{name}: expected a number, found {type(number).__name__}; give one")


def check_drop_p(drop_p: float) -> None:
    """Raise ValueError unless 0 <= drop_p < 1."""
    check_number("drop_p", drop_p)
    if not 0.0 <= drop_p < 1.0:
        raise ValueError(f"drop_p: expected a chance in [0, 1), found {drop_p}")


def check_seed(seed: object, beside: str, device: torch.device) -> None:
    """Raise ValueError unless seed is an int64 tensor with one element on a device.

    Args:
        seed: what was given.
        beside: name of the argument on the device, for the message.
        device: the one it must be on.
    """
    if not isinstance(seed, Tensor):
        draw = "functional.draw_seeds(1, device)"
        maker = f"torch.tensor({seed})" if isinstance(seed, int) else draw
        found = f"found {type(seed).__name__}; {maker} makes one"
        raise ValueError(f"seed: expected an int64 tensor with one element, {found}")
    if seed.dtype != torch.int64 or seed.numel() != 1:
        found = f"{seed.dtype} {list(seed.shape)}"
        raise ValueError(f"seed: expected an int64 tensor with one element, found {found}")
    if seed.device != device:
        raise ValueError(f"seed: expected on {device} beside {beside}, found on {seed.device}")
