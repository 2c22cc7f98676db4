"""The layers of the AWD-LSTM: weight-dropped LSTM, embedding dropout, variational dropout.

Sizes: T time steps, B batch rows, I input features, H hidden units, E embedding size, V vocabulary.
In eval() nothing is dropped and no random number is drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ulmfit_fast import functional
from ulmfit_fast.functional import State


class WeightDroppedLSTM(nn.Module):
    """One LSTM layer whose recurrent weights are dropped once per call (AWD-LSTM).

    h[t], c[t] = cell(W_ih x[t] + b_ih + (m * W_hh) h[t-1] + b_hh, c[t-1])
    m = keep / (1 - drop_p), drawn once per call and shared by all rows and steps

    The parameters are the undropped weights under nn.LSTM's names, so a state dict of a one-layer
    nn.LSTM loads here and back; no second copy of a weight is ever stored.

    Args:
        input_size: features of x, I.
        hidden_size: features of h, H.
        drop_p: chance that an entry of W_hh is zero for a whole call, in [0, 1).

    Shape: x [T, B, I], state (h, c) each [B, H] or None (zeros) -> y [T, B, H], (h, c) of step T.
    Raises: ValueError if x is not [T, B, I] or a state is not [B, H].
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182, section 2.
    """

    def __init__(self, input_size: int, hidden_size: int, drop_p: float = 0.0) -> None:
        super().__init__()
        functional.check_drop_p(drop_p)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.drop_p = drop_p
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1 / sqrt(H), 1 / sqrt(H)), as nn.LSTM does."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def zero_state(self, batch_size: int) -> State:
        """Return the state (h, c) of zeros; each of shape [B, H], like the weights."""
        h0 = self.weight_hh_l0.new_zeros(batch_size, self.hidden_size)
        return h0, torch.zeros_like(h0)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the layer over x [T, B, I]; see the class for shapes."""
        if state is None:
            state = self.zero_state(x.shape[1])
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        if self.training and self.drop_p > 0:
            return functional.lstm(
                x, state, weights, self.drop_p, functional.draw_seeds(1, x.device)
            )
        return functional.lstm(x, state, weights, 0.0, None)

    def extra_repr(self) -> str:
        """Name the sizes in repr()."""
        return f"{self.input_size}, {self.hidden_size}, drop_p={self.drop_p}"


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
        return nn.functional.embedding(ids, self.weight, self.padding_idx)

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
