"""Learner.to_bf16 on a CPU, where fastai's autocast, which is CUDA's, does nothing."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from fastai.callback.fp16 import AMPMode, MixedPrecision
from torch import nn

_before_fit = MixedPrecision.before_fit


def enable_bf16_on_cpu(architecture: type[nn.Module]) -> None:
    """Have MixedPrecision compute in bfloat16 on a CPU too, for models that hold an architecture.

    All other learners keep fastai's behaviour; float16 on a CPU stays what it is there, float32.
    """

    def before_fit(self: Any) -> None:
        model = self.learn.model
        wanted = self.amp_mode == AMPMode.BF16 and _is_on_cpu(model)
        if not (wanted and any(isinstance(each, architecture) for each in model.modules())):
            _before_fit(self)
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "CUDA is not available")
            _before_fit(self)
        self.autocast = torch.autocast("cpu", torch.bfloat16)

    MixedPrecision.before_fit = before_fit


def _is_on_cpu(model: nn.Module) -> bool:
    """Say whether a model's first parameter is on the CPU."""
    return next(model.parameters()).device.type == "cpu"
