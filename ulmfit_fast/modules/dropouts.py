"""The dropouts of the AWD-LSTM that are layers of their own: of words and of features.

Sizes: T time steps, B batch rows, E embedding size, V vocabulary. In eval() nothing is dropped and
no random number is drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ulmfit_fast import functional


class EmbeddingDropout(nn.Module):
    """An embedding table that drops whole words, one draw per word and call.

    Args:
        vocab_size: rows of the table, V.
        embed_size: columns of the table, E.
        drop_p: chance that a word's embedding is zero in a whole call, in [0, 1).
        padding_idx: row that gets no gradient from the look-up.

    Shape: ids [*] int64 -> [*, E].
    Source: Gal, Ghahramani 2016, arXiv:1512.05287.
    """

    def __init__(
        self, vocab_size: int, embed_size: int, drop_p: float = 0.0, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        functional.check_drop_p(drop_p)
        self.drop_p = drop_p
        self.padding_idx = padding_idx
        self.weight = nn.Parameter(torch.empty(vocab_size, embed_size))
        nn.init.uniform_(self.weight, -0.1, 0.1)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids of any shape; returns [*ids.shape, E]."""
        if self.training and self.drop_p > 0:
            seed = functional.draw_seeds(1, ids.device)
            return functional.embedding_dropout(
                ids, self.weight, self.drop_p, seed, self.padding_idx
            )
        return functional.embedding_dropout(ids, self.weight, 0.0, None, self.padding_idx)

    def extra_repr(self) -> str:
        """Name the sizes in repr()."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, drop_p={self.drop_p}"


class VariationalDropout(nn.Module):
    """Dropout with one draw per row and feature, the same at every time step.

    Args:
        drop_p: chance that a feature of a row is zero at every step, in [0, 1).

    Shape: x [T, B, E] -> [T, B, E].
    Source: Gal, Ghahramani 2016, arXiv:1512.05287.
    """

    def __init__(self, drop_p: float = 0.0) -> None:
        super().__init__()
        functional.check_drop_p(drop_p)
        self.drop_p = drop_p

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x [T, B, E]; the identity in eval()."""
        if self.training and self.drop_p > 0:
            return functional.variational_dropout(
                x, self.drop_p, functional.draw_seeds(1, x.device)
            )
        return x

    def extra_repr(self) -> str:
        """Name the rate in repr()."""
        return f"drop_p={self.drop_p}"
