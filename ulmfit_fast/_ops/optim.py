"""Fake of the optimizer's op, which has no gradient."""

from __future__ import annotations

from typing import Any

import torch


def _layerwise_adamw__fake(*arguments: Any) -> None:
    """Do nothing: the op writes over what its schema marks, and returns nothing."""


torch.library.register_fake("ulmfit_fast::layerwise_adamw_", _layerwise_adamw__fake)
