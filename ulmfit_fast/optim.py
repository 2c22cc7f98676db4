"""AdamW over layer groups that each have their own learning rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn


def layerwise_adamw(
    groups: Mapping[str, Sequence[nn.Parameter]],
    undecayed: Collection[nn.Parameter],
    *,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """Return torch's fused AdamW with a parameter group for each layer group.

    A layer group with undecayed parameters has a second parameter group for them. Both hold the
    layer group's name under "layer"; set their "lr" with set_rates. A frozen layer is one whose
    gradients are None: it neither moves, nor decays, nor counts steps.

    Args:
        groups: parameters by layer, lowest first.
        undecayed: parameters without weight decay.
        weight_decay: decoupled, multiplied by each group's rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
    """
    spared = set(map(id, undecayed))
    parameter_groups = []
    for name, parameters in groups.items():
        for decay, is_spared in ((weight_decay, False), (0.0, True)):
            chosen = [p for p in parameters if (id(p) in spared) == is_spared]
            if chosen:
                parameter_groups.append({"params": chosen, "weight_decay": decay, "layer": name})
    return torch.optim.AdamW(parameter_groups, lr=0.0, betas=betas, eps=eps, fused=True)


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Mapping[str, float], betas: tuple[float, float]
) -> None:
    """Set the learning rate of every layer group, and the betas of all.

    Args:
        optimizer: from layerwise_adamw.
        rates: learning rate by layer.
        betas: decay rates of the moments.
    """
    for group in optimizer.param_groups:
        group["lr"] = rates[group["layer"]]
        group["betas"] = betas
