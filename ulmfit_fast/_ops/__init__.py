"""Operator contracts: schema, fake and gradient of every op. No arithmetic lives here.

The kernels of an op are registered in _native.py: exactly one for each kind of device. What the
arguments and results mean stands in reference/, under the op's name.
"""

from ulmfit_fast._ops.schemas import SCHEMAS  # noqa: I001  (schemas first: the others define on them)
from ulmfit_fast._ops import layers, loss, lstm, lstm_chunks, optim

__all__ = ["SCHEMAS", "layers", "loss", "lstm", "lstm_chunks", "optim"]
