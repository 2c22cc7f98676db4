"""Parameter groups of a model's layers, and their learning rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ulmfit_fast.schedule import discriminative_rates


def layer_param_groups(
    layers: Mapping[str, Sequence[nn.Parameter]],
    *,
    lr: float,
    lr_decay: float = 2.6,
    weight_decay: float = 0.01,
    undecayed: Collection[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups: one for each layer, and one for what does not decay.

    Both hold the layer's name under "layer"; set_rates changes their rates.

    Args:
        layers: parameters by layer, lowest first, as model.layer_groups() returns them.
        lr: learning rate of the top layer.
        lr_decay: learning rate of a layer over that of the layer below.
        weight_decay: decoupled, multiplied by each group's rate.
        undecayed: parameters without weight decay; a layer that has some gets a second group.

    Raises:
        ValueError: lr below 0, or lr_decay not above 0.

    Source: discriminative rates: Howard, Ruder 2018, arXiv:1801.06146, section 3.2.
    """
    for name, value, is_right in (("lr", lr, lr >= 0), ("lr_decay", lr_decay, lr_decay > 0)):
        if not is_right:
            least = "0 or more" if name == "lr" else "above 0"
            raise ValueError(f"{name} is {value}; give a number {least}")
    spared = set(map(id, undecayed))
    rates = discriminative_rates(lr, len(layers), lr_decay)
    groups = []
    for (name, parameters), rate in zip(layers.items(), rates, strict=True):
        for decay, is_spared in ((weight_decay, False), (0.0, True)):
            chosen = [p for p in parameters if (id(p) in spared) == is_spared]
            if chosen:
                shared = {"lr": rate, "weight_decay": decay, "layer": name}
                groups.append({"params": chosen, **shared})
    return groups


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Mapping[str, float], betas: tuple[float, float]
) -> None:
    """Set the learning rate of every layer, and the betas of all.

    Args:
        optimizer: over layer_param_groups.
        rates: learning rate by layer.
        betas: decay rates of the moments.

    Raises:
        ValueError: a group of a layer that has no rate; nothing has changed then.
    """
    for index, group in enumerate(optimizer.param_groups):
        if group.get("layer") not in rates:
            layer = repr(group["layer"]) if "layer" in group else "of no layer"
            raise ValueError(f"group {index} is {layer}; rates are of {', '.join(rates)}")
    for group in optimizer.param_groups:
        group["lr"] = rates[group["layer"]]
        group["betas"] = betas
