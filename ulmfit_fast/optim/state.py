"""What LayerwiseAdamW keeps of a parameter, in torch.optim.AdamW's names and layouts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast import _native

State = dict[str, Any]


def new_state(param: Tensor) -> State:
    """Return the state before the first step: moments [like param], and a count on its device."""
    return {
        "step": torch.zeros((), device=param.device),
        "exp_avg": _native.empty_in_huge_pages(param).zero_(),
        "exp_avg_sq": _native.empty_in_huge_pages(param).zero_(),
    }


def add_average(state: State, param: Tensor) -> None:
    """Add an average that nothing has gone into yet; "ax" is torch.optim.ASGD's name."""
    state["ax"] = param.detach().clone()
    state["n_averaged"] = torch.zeros((), device=param.device)


def in_layout_of(tensor: Tensor, param: Tensor) -> Tensor:
    """Return a tensor of a parameter's shape with its strides: itself where it has them."""
    if tensor.stride() == param.stride():
        return tensor
    return torch.empty_like(param).copy_(tensor)


def adopt(state: State, param: Tensor) -> None:
    """Make a loaded state, of whatever optimizer like AdamW, one of its own that the kernels take.

    A state dict shares its tensors with the optimizer that it comes from: they are copied.
    """
    for name in ("step", "n_averaged"):
        if name in state:
            count = torch.as_tensor(state[name], dtype=torch.float32, device=param.device)
            state[name] = count.reshape(()).clone()
    for name in ("exp_avg", "exp_avg_sq", "ax"):
        if name in state:
            state[name] = _native.empty_in_huge_pages(param).copy_(state[name])


def swap(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Exchange the values of two tensors of each pair, each in its own memory."""
    with torch.no_grad():
        for one, other in pairs:
            kept = one.detach().clone()
            one.copy_(other)
            other.copy_(kept)
