"""Parameter groups of a model's layers, and their learning rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn


def layer_param_groups(
    groups: Mapping[str, Sequence[nn.Parameter]],
    undecayed: Collection[nn.Parameter],
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups: one for each layer, and one for what does not decay.

    Both hold the layer's name under "layer"; set their "lr" with set_rates.

    Args:
        groups: parameters by layer, lowest first, as model.layer_groups() returns them.
        undecayed: parameters without weight decay; a layer that has some gets a second group.
        weight_decay: decoupled, multiplied by each group's rate.
    """
    spared = set(map(id, undecayed))
    found = []
    for name, parameters in groups.items():
        for decay, is_spared in ((weight_decay, False), (0.0, True)):
            chosen = [p for p in parameters if (id(p) in spared) == is_spared]
            if chosen:
                found.append({"params": chosen, "weight_decay": decay, "layer": name})
    return found


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Mapping[str, float], betas: tuple[float, float]
) -> None:
    """Set the learning rate of every layer, and the betas of all.

    Args:
        optimizer: over layer_param_groups.
        rates: learning rate by layer.
        betas: decay rates of the moments.
    """
    for group in optimizer.param_groups:
        group["lr"] = rates[group["layer"]]
        group["betas"] = betas
