"""What LayerwiseAdamW keeps of a parameter, in torch.optim.AdamW's names and layouts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast import _native

State = dict[str, Any]
#: Tensors of a parameter's shape, and numbers; "ax" is torch.optim.ASGD's name of an average.
LIKE_PARAM = ("exp_avg", "exp_avg_sq", "ax")
COUNTS = ("step", "n_averaged")


def count(param: Tensor) -> Tensor:
    """Return a count of 0: float32, 0-dim, on a parameter's device."""
    return torch.zeros((), dtype=torch.float32, device=param.device)


def new_state(param: Tensor) -> State:
    """Return the state before the first step: moments [like param], and a count of steps."""
    return {
        "step": count(param),
        "exp_avg": _native.empty_in_huge_pages(param).zero_(),
        "exp_avg_sq": _native.empty_in_huge_pages(param).zero_(),
    }


def add_average(state: State, param: Tensor) -> None:
    """Add an average that nothing has gone into yet."""
    state["ax"] = param.detach().clone()
    state["n_averaged"] = count(param)


def has_layout_of(tensor: Tensor, param: Tensor) -> bool:
    """Say whether a tensor of a parameter's shape has its strides, as far as they matter."""
    if tensor.is_contiguous() and param.is_contiguous():
        return True
    dims = zip(param.shape, tensor.stride(), param.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in dims)


def in_layout_of(tensor: Tensor, param: Tensor) -> Tensor:
    """Return a tensor of a parameter's shape with its strides: itself where it has them."""
    if has_layout_of(tensor, param):
        return tensor
    return torch.empty_like(param).copy_(tensor)


def adopt(state: State, param: Tensor) -> None:
    """Make a loaded state, of whatever optimizer like AdamW, one of its own that the kernels take.

    A state dict shares its tensors with the optimizer that it comes from: they are copied.
    """
    for name in state.keys() & set(COUNTS):
        loaded = torch.as_tensor(state[name], dtype=torch.float32, device=param.device)
        state[name] = loaded.reshape(()).clone()
    for name in state.keys() & set(LIKE_PARAM):
        state[name] = _native.empty_in_huge_pages(param).copy_(state[name])


def swap(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Exchange the values of two tensors of each pair, each in its own memory."""
    with torch.no_grad():
        for one, other in pairs:
            kept = one.detach().clone()
            one.copy_(other)
            other.copy_(kept)
