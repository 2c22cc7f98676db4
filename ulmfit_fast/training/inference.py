"""A classifier whose LSTM weights are kept rounded between predictions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ulmfit_fast.model import TextClassifier


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
    """Holds the LSTM weights of one classifier in the dtype that autocast casts them to.

    Under autocast every call casts them anew. The copy runs there too, finds them cast, and gives
    the same results. It shares everything else with the classifier, so it costs the memory of the
    rounded weights, 41 MB for 20 M in bfloat16, until clear() or until another is asked for.
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
            model: shares embedding and head with the copy, and must be in eval().
            dtype: of autocast around the calls to come.

        Returns:
            copy: in eval(); the model itself where there is nothing to round, or where its weights
                are made from others (torch.nn.utils.parametrize), which must not be rounded.

        Raises:
            ValueError: the model is not in eval().
        """
        if model.training:
            raise ValueError("model: expected in eval(), as the copy shares its batch norms")
        lstms = list(model.encoder.rnns)
        weights = [parameter for lstm in lstms for parameter in lstm.parameters()]
        is_made = any(map(is_parametrized, lstms))
        if is_made or all(weight.dtype == dtype for weight in weights):
            self.clear()
            return model
        seen = [
            *(Seen(tensor, ()) for tensor in (*model.parameters(), *model.buffers())),
            *(Seen(weight, (dtype, weight._version, weight.data_ptr())) for weight in weights),
        ]
        if self._copy is None or self._source is not model or self._seen != seen:
            self.clear()
            self._copy = rounded_copy(model, weights, dtype)
            self._source, self._seen = model, seen
        self._copy.bptt, self._copy.max_len = model.bptt, model.max_len
        return self._copy

    def clear(self) -> None:
        """Let go of the copy and of the classifier."""
        self._copy, self._source, self._seen = None, None, []


def rounded_copy(
    model: TextClassifier, weights: list[nn.Parameter], dtype: torch.dtype
) -> TextClassifier:
    """Return a copy of a model with some of its weights rounded, and all else shared."""
    shared = [*model.parameters(), *model.buffers()]
    # deepcopy takes from the memo what it shall not copy.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for weight in weights:
        rounded = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        memo[id(weight)] = rounded
    return copy.deepcopy(model, memo)
