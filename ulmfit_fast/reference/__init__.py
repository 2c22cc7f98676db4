"""Every operation in plain PyTorch: the specification that all kernels are held against."""

from ulmfit_fast.reference.layers import (
    activation_regularization,
    activation_regularization_backward,
    concat_pool,
    concat_pool_backward,
    embedding_dropout,
    embedding_dropout_backward,
    variational_dropout,
)
from ulmfit_fast.reference.loss import (
    linear_cross_entropy,
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)
from ulmfit_fast.reference.lstm import lstm, lstm_backward, lstm_forward
from ulmfit_fast.reference.lstm_chunks import by_chunks, lstm_chunks_forward
from ulmfit_fast.reference.masks import (
    WORD,
    accumulation_dtype,
    drop_connect,
    keep_at,
    keep_mask,
    philox4x32,
)
from ulmfit_fast.reference.optim import layerwise_adamw_

__all__ = [
    "WORD",
    "accumulation_dtype",
    "activation_regularization",
    "activation_regularization_backward",
    "by_chunks",
    "concat_pool",
    "concat_pool_backward",
    "drop_connect",
    "embedding_dropout",
    "embedding_dropout_backward",
    "keep_at",
    "keep_mask",
    "layerwise_adamw_",
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "linear_cross_entropy_forward",
    "lstm",
    "lstm_backward",
    "lstm_chunks_forward",
    "lstm_forward",
    "philox4x32",
    "variational_dropout",
]
