"""What LayerwiseAdamW refuses, in one line each, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: Flags of torch.optim.AdamW that change what is computed, and what to take instead.
REFUSED_FLAGS = {
    "amsgrad": "LayerwiseAdamW keeps no maximum of the second moments; use torch.optim.AdamW",
    "maximize": "negate the loss instead",
    "differentiable": "the step has no gradient; use torch.optim.AdamW",
}
#: What a group sets, in the order of the op's argument layers.
SETTINGS = ("lr", "weight_decay", "beta1", "beta2", "eps")
#: What each has to stay below.
BOUNDS = (math.inf, math.inf, 1.0, 1.0, math.inf)
#: Arguments of the optimizer that a group cannot have.
OF_ALL_GROUPS = {"max_grad_norm", "skip_nonfinite", "bf16_shadow", "average"}
PLAIN = (torch.nn.Parameter, Tensor)


def check_flags(flags: Mapping[str, Any], where: str) -> None:
    """Raise ValueError where a flag that is not supported is set."""
    for name, instead in REFUSED_FLAGS.items():
        if flags.get(name):
            raise ValueError(f"{where}: {name}=True is not supported: {instead}")


def check_average(average: object) -> None:
    """Raise ValueError unless average is None, "mean" or a weight in [0, 1)."""
    is_weight = isinstance(average, int | float) and 0.0 <= average < 1.0
    if not (average is None or average == "mean" or is_weight):
        raise ValueError(f'average: expected None, "mean" or a weight in [0, 1), found {average!r}')


def check_max_grad_norm(max_grad_norm: object) -> None:
    """Raise ValueError unless max_grad_norm is a number above 0, or None."""
    is_bound = isinstance(max_grad_norm, int | float) and max_grad_norm > 0
    if not (max_grad_norm is None or is_bound):
        found = f"found {max_grad_norm!r}"
        raise ValueError(f"max_grad_norm: expected a number above 0 or None, {found}")


def check_group(group: object, where: str) -> None:
    """Raise ValueError unless a group is a dict with params, and sets nothing that is of all."""
    if not isinstance(group, dict) or "params" not in group:
        raise ValueError(f'{where}: expected a dict with "params", found {type(group).__name__}')
    for name in OF_ALL_GROUPS & group.keys():
        raise ValueError(f"{where}: {name} is of all groups together: give it to LayerwiseAdamW")
    if not isinstance(group.get("frozen", False), bool):
        raise ValueError(f"{where}: frozen is {group['frozen']!r}; give True or False")


def check_params(group: Mapping[str, Any], where: str) -> None:
    """Raise unless a group has parameters, each once, that the kernels can move.

    Raises:
        ValueError: no parameters, one of them twice, or one that is no floating-point tensor.
        NotImplementedError: a dtype or a memory layout that the kernels do not know.
    """
    params: Sequence[Tensor] = group["params"]
    if not params:
        raise ValueError(f"{where} has no parameters: leave the group out")
    if len(set(map(id, params))) < len(params):
        raise ValueError(f"{where} holds a parameter twice: list each once")
    for place, param in enumerate(params):
        try:
            check_param(param)
        except (ValueError, NotImplementedError) as error:
            raise type(error)(f"{name_of(group, place, where)}: {error}") from None


def name_of(group: Mapping[str, Any], place: int, where: str) -> str:
    """Return what to call a parameter in an error."""
    names = group.get("param_names")
    return f"{where}, parameter {place if names is None else names[place]!r}"


def check_param(param: Tensor) -> None:
    """Raise as check_params does, for one parameter."""
    if param.dtype == torch.float32 and param.layout == torch.strided:
        # Looked for by an attribute: to import the class takes long.
        if type(param) not in PLAIN and hasattr(param, "placements"):
            raise NotImplementedError(
                "DTensor (FSDP, tensor parallelism) is not supported; use DDP"
            )
        return
    if param.layout != torch.strided:
        raise NotImplementedError(f"{param.layout} is not supported; make it dense")
    if not param.is_floating_point():
        raise ValueError(f"expected float32, found {param.dtype}; leave it out")
    raise NotImplementedError(
        f"expected float32, found {param.dtype}; keep float32 parameters and compute in 16 bits "
        "with torch.autocast, or use torch.optim.AdamW"
    )


def check_gradient(param: Tensor, grad: Tensor, state: Mapping[str, Any]) -> None:
    """Raise unless a parameter's gradient and state fit it.

    Raises:
        ValueError: a gradient or state of another shape, dtype or device than the parameter.
        NotImplementedError: a sparse gradient; a parameter whose memory has gaps or overlaps.
    """
    check_param(param)
    if grad.layout != torch.strided:
        raise NotImplementedError(
            f"a gradient with layout {grad.layout} is not supported; make it dense "
            "(nn.Embedding: sparse=False)"
        )
    for name in ("gradient", "exp_avg", "exp_avg_sq", "ax"):
        tensor = grad if name == "gradient" else state.get(name, param)
        if tensor.shape != param.shape:
            shapes = f"{list(param.shape)}, found {list(tensor.shape)}"
            raise ValueError(f"expected {name} of shape {shapes}; make a new optimizer")
        if tensor.dtype != param.dtype:
            raise ValueError(f"expected {name} in {param.dtype}, found {tensor.dtype}")
        if tensor.device != param.device:
            raise ValueError(
                f"it is on {param.device}, its {name} on {tensor.device}: move the model before "
                "the optimizer is made, or load the optimizer's state dict again"
            )
    if not is_dense(param):
        raise NotImplementedError(
            f"its memory has gaps or overlaps (strides {list(param.stride())}); make it contiguous"
        )


def is_dense(tensor: Tensor) -> bool:
    """Say whether a tensor's elements fill its memory, in any order of its dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def check_settings(row: Sequence[float], where: str) -> None:
    """Raise ValueError unless lr, weight_decay, beta1, beta2 and eps are in their ranges."""
    for name, value, bound in zip(SETTINGS, row, BOUNDS, strict=True):
        if not 0.0 <= value < bound:
            expected = "in [0, 1)" if bound == 1.0 else "0 or more"
            raise ValueError(f"{where}: {name} is {value}; give a number {expected}")


def check_is_state_dict(state_dict: object) -> None:
    """Raise ValueError unless something has the two entries of an optimizer's state dict."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError("state dict: expected that of an optimizer, with state and param_groups")


def check_state_dict(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError unless a state dict fits the parameters, before any of it is taken over.

    Args:
        state_dict: of a LayerwiseAdamW or a torch.optim.AdamW.
        groups: parameter groups of the optimizer that is to load it.
    """
    saved_groups = state_dict["param_groups"]
    saved, found = ([len(g["params"]) for g in of_groups] for of_groups in (saved_groups, groups))
    if saved != found:
        raise ValueError(
            f"state dict: groups of {saved} parameters do not fit an optimizer with {found}"
        )
    for index, (old, group) in enumerate(zip(saved_groups, groups, strict=True)):
        where = f"state dict, group {index}"
        missing = {"lr", "betas", "eps", "weight_decay"} - old.keys()
        if missing:
            raise ValueError(f"{where} has no {', '.join(sorted(missing))}: it is not of AdamW")
        if old.get("decoupled_weight_decay") is False and old["weight_decay"] != 0:
            raise ValueError(
                f"{where} is of Adam, whose weight decay is part of the gradient; here it is not"
            )
        for place, (key, param) in enumerate(zip(old["params"], group["params"], strict=True)):
            state = state_dict["state"].get(key)
            if state:
                check_saved_state(state, param, name_of(group, place, where))


def check_saved_state(state: Mapping[str, Any], param: Tensor, name: str) -> None:
    """Raise ValueError unless the saved state of a parameter is AdamW's, and of its shape."""
    needed = {"step", "exp_avg", "exp_avg_sq"}
    odd = state.keys() - needed - {"ax", "n_averaged", "max_exp_avg_sq"}
    if odd or needed - state.keys():
        raise ValueError(f"{name}: its state is {', '.join(sorted(state))}: it is not of AdamW")
    if not 0 <= float(state["step"]) < math.inf:
        raise ValueError(f"{name}: step is {float(state['step'])}; it counts from 0")
    for key in state.keys() & {"exp_avg", "exp_avg_sq", "ax"}:
        if state[key].shape != param.shape:
            shapes = f"{list(state[key].shape)}, the parameter {list(param.shape)}"
            raise ValueError(f"{name}: {key} has shape {shapes}")
