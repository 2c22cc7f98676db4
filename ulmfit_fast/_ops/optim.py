"""Fake of the optimizer's op, which has no gradient."""

from __future__ import annotations

from typing import Any

from ulmfit_fast._ops.schemas import register_fake


def _layerwise_adamw__fake(*arguments: Any) -> None:
    """Do nothing: the op writes over what its schema marks, and returns nothing."""


register_fake("layerwise_adamw_", _layerwise_adamw__fake)
