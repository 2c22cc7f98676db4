"""AdamW over layer groups that each have their own learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn


def layerwise_adamw(
    groups: Mapping[str, Sequence[nn.Parameter]],
    rates: Sequence[float],
    *,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """Return torch's fused AdamW with one parameter group for each layer group.

    A frozen layer is one whose gradients are None: it neither moves, nor decays, nor counts steps.

    Args:
        groups: parameters by layer, lowest first; the name goes into the parameter group.
        rates: learning rate of each group.
        weight_decay: decoupled, multiplied by each group's rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
    """
    return torch.optim.AdamW(
        [
            {"params": list(parameters), "lr": lr, "name": name}
            for (name, parameters), lr in zip(groups.items(), rates, strict=True)
        ],
        weight_decay=weight_decay,
        betas=betas,
        eps=eps,
        fused=True,
    )
