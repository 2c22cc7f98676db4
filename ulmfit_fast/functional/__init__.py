"""The documented functions: check the arguments, then call the operation.

Sizes as in reference/. Every random mask is a function of a seed tensor; draw_seeds makes seeds
from PyTorch's generator of the device, so torch.manual_seed fixes every mask.
"""

from ulmfit_fast.functional.layers import (
    activation_regularization,
    check_ids,
    concat_pool,
    embedding_dropout,
    variational_dropout,
)
from ulmfit_fast.functional.loss import linear_cross_entropy
from ulmfit_fast.functional.lstm import LSTM_DTYPES, LSTMWeights, State, check_lstm, lstm
from ulmfit_fast.functional.lstm_chunks import lstm_chunks
from ulmfit_fast.functional.masks import check_drop_p, check_seed, draw_seeds, drop_connect

__all__ = [
    "LSTM_DTYPES",
    "LSTMWeights",
    "State",
    "activation_regularization",
    "check_drop_p",
    "check_ids",
    "check_lstm",
    "check_seed",
    "concat_pool",
    "draw_seeds",
    "drop_connect",
    "embedding_dropout",
    "linear_cross_entropy",
    "lstm",
    "lstm_chunks",
    "variational_dropout",
]
