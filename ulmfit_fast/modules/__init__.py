"""The layers of the AWD-LSTM: weight-dropped LSTM, embedding dropout, variational dropout."""

from ulmfit_fast.modules.dropouts import EmbeddingDropout, VariationalDropout
from ulmfit_fast.modules.lstm import WeightDroppedLSTM

__all__ = ["EmbeddingDropout", "VariationalDropout", "WeightDroppedLSTM"]
