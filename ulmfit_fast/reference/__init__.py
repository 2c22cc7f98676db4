"""Every operation in plain PyTorch: the specification that all kernels are held against."""

from ulmfit_fast.reference.layers import (
    concat_pool,
    embedding_dropout,
    linear_cross_entropy,
    variational_dropout,
)
from ulmfit_fast.reference.lstm import lstm, lstm_backward, lstm_forward
from ulmfit_fast.reference.masks import (
    WORD,
    accumulation_dtype,
    drop_connect,
    keep_mask,
    philox4x32,
)
from ulmfit_fast.reference.optim import layerwise_adamw_

__all__ = [
    "WORD",
    "accumulation_dtype",
    "concat_pool",
    "drop_connect",
    "embedding_dropout",
    "keep_mask",
    "layerwise_adamw_",
    "linear_cross_entropy",
    "lstm",
    "lstm_backward",
    "lstm_forward",
    "philox4x32",
    "variational_dropout",
]
