"""Operator contracts: schema, fake and gradient of every op. No arithmetic lives here.

The kernels of an op are registered in _native.py: exactly one for each kind of device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SCHEMAS = {
    "drop_connect": "(Tensor weight, float drop_p, Tensor seed) -> Tensor",
}

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"ulmfit_fast::{_name}", _schema, tags=torch.Tag.pt2_compliant_tag)


def _drop_connect_fake(weight: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    return weight.new_empty(weight.shape)  # contiguous for any strides, like every kernel's output


def _drop_connect_save(ctx: Any, inputs: tuple[Tensor, float, Tensor], output: Tensor) -> None:
    _, ctx.drop_p, seed = inputs
    ctx.save_for_backward(seed)  # the mask is a function of the seed: nothing else is stored


def _drop_connect_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    # out = m * weight / (1 - drop_p) is linear in weight: its gradient is the op itself.
    (seed,) = ctx.saved_tensors
    return torch.ops.ulmfit_fast.drop_connect(grad, ctx.drop_p, seed), None, None


torch.library.register_fake("ulmfit_fast::drop_connect", _drop_connect_fake)
torch.library.register_autograd(
    "ulmfit_fast::drop_connect", _drop_connect_backward, setup_context=_drop_connect_save
)
