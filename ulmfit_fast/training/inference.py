"""A model whose LSTM weights stay rounded between calls."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ulmfit_fast.model import LanguageModel, TextClassifier
from ulmfit_fast.modules import WeightDroppedLSTM

_Model = TypeVar("_Model", LanguageModel, TextClassifier)


@dataclass(frozen=True, eq=False)
class Seen:
    """A tensor, and what tells that it was not changed. Held, so that none takes its identity."""

    tensor: Tensor
    marks: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        """Compare the tensors themselves, not their values."""
        if not isinstance(other, Seen):
            return NotImplemented
        return self.tensor is other.tensor and self.marks == other.marks

    __hash__ = None  # type: ignore[assignment]


class InferenceCopy:
    """Holds the LSTM weights of one classifier in the dtype in which autocast has them multiplied.

    Every call rounds float32 weights anew. A copy runs under autocast, too, finds them rounded, and
    gives the same results, but where a kernel chooses another order of sums for weights that need
    no rounding (on the CPU, up to four rows). It shares everything else with the classifier, so it
    costs the memory of the rounded weights, 41 MB for 20 M in bfloat16, until clear() or until
    another is asked for.
    """

    def __init__(self) -> None:
        self._copy: TextClassifier | None = None
        self._source: TextClassifier | None = None
        self._seen: list[Seen] = []

    def of(self, model: TextClassifier, dtype: torch.dtype) -> TextClassifier:
        """Return a copy of a classifier to predict with, the last one where it is still right.

        A copy is stale as soon as a parameter or buffer is another tensor, or one of the LSTM's was
        moved or written to by any means that counts versions: all of torch's but `parameter.data`.

        Args:
            model: shares embedding and head with the copy.
            dtype: of autocast around the calls to come.

        Returns:
            copy: in eval(); the model itself where its weights are not float32, or are made from
                others (torch.nn.utils.parametrize), which must not be rounded.
        """
        lstms = lstms_of(model)
        weights = [parameter for lstm in lstms for parameter in lstm.parameters()]
        is_made = any(map(is_parametrized, lstms))
        if is_made or any(weight.dtype != torch.float32 for weight in weights):
            self.clear()
            return model
        seen = [
            *(Seen(tensor, ()) for tensor in (*model.parameters(), *model.buffers())),
            *(Seen(weight, (dtype, weight._version, weight.data_ptr())) for weight in weights),
        ]
        if self._copy is None or self._source is not model or self._seen != seen:
            self.clear()
            self._copy = rounded_copy(model, dtype)
            self._source, self._seen = model, seen
        self._copy.bptt, self._copy.max_len = model.bptt, model.max_len
        return self._copy

    def clear(self) -> None:
        """Let go of the copy and of the classifier."""
        self._copy, self._source, self._seen = None, None, []


def lstms_of(model: LanguageModel | TextClassifier) -> list[WeightDroppedLSTM]:
    """Return the layers of the encoder."""
    return [layer for layer in model.encoder.rnns if isinstance(layer, WeightDroppedLSTM)]


def rounded_copy(model: _Model, dtype: torch.dtype) -> _Model:
    """Return a copy of a model, in eval(), with its LSTM's weights rounded and all else shared.

    The kernels round the sum of the two biases: b_ih of the copy is that sum, b_hh is 0.
    """
    # deepcopy takes from the memo what it shall not copy.
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for lstm in lstms_of(model):
        for w_ih, w_hh, *biases in lstm.all_weights:
            values = [w_ih, w_hh]
            if biases:
                values += [biases[0] + biases[1], torch.zeros_like(biases[1])]
            for weight, value in zip((w_ih, w_hh, *biases), values, strict=True):
                memo[id(weight)] = nn.Parameter(value.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(model, memo).eval()
