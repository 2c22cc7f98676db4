"""LayerwiseAdamW, and how a model's layers become its parameter groups."""

from ulmfit_fast.optim.groups import layer_param_groups, set_rates
from ulmfit_fast.optim.layerwise_adamw import LayerwiseAdamW

__all__ = ["LayerwiseAdamW", "layer_param_groups", "set_rates"]
