"""drop_connect on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def drop_connect(weight: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Run the CUDA C++ kernel, which takes every size and dtype."""
    dropped: Tensor = torch.ops.ulmfit_fast_cuda.drop_connect(weight, drop_p, seed)
    return dropped
