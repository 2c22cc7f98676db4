"""The weight-dropped LSTM of any depth, with the interface of nn.LSTM.

Sizes: T time steps, B batch rows, I input features, H hidden units, L layers, D directions. In
eval() nothing is dropped and no random number is drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ulmfit_fast import functional
from ulmfit_fast.functional import State


class Factory(TypedDict, total=False):
    """Where parameters are made, and of what dtype; None: torch's defaults."""

    device: torch.device | str | int | None
    dtype: torch.dtype | None


class WeightDroppedLSTM(nn.Module):
    """nn.LSTM whose recurrent weights are dropped once per call (AWD-LSTM).

    h[t], c[t] = cell(W_ih x[t] + b_ih + (m * W_hh) h[t-1] + b_hh, c[t-1])
    m = keep / (1 - drop_p), drawn once per call, layer and direction, shared by all rows and steps

    The parameters are the undropped weights under nn.LSTM's names, in its order, drawn as it draws
    them; a state dict goes both ways. Nothing else is stored. proj_size is not offered.

    Args:
        input_size: features of x, I.
        hidden_size: features of h, H.
        num_layers: layers on top of each other, L.
        bias: whether there are b_ih and b_hh.
        batch_first: whether batched input and output are [B, T, ...]; the state never is.
        dropout: chance that an element between two layers is zero, in [0, 1].
        bidirectional: whether each layer also runs from the last step to the first; D is then 2.
        drop_p: chance that an entry of each W_hh is zero for a whole call, in [0, 1).
        **factory: device and dtype of the parameters.

    Shape: input [T, B, I], [B, T, I] with batch_first, [T, I] for one sequence, or a PackedSequence
        -> output of the same kind with D H features, (h_n, c_n) each [L D, B, H], or [L D, H].
    Parameters: for each layer and direction weight_ih_l0 [4H, I] (D H columns above the first
        layer), weight_hh_l0 [4H, H], bias_ih_l0 [4H], bias_hh_l0 [4H]; then ..._l0_reverse, ..._l1.
    Raises: ValueError for an argument out of its range; TypeError for an unknown one.
    Numbers: without dropping, nn.LSTM's. Autocast acts as on nn.LSTM (float64 input is left alone),
        but c_n stays float32, and packed input is cast on the CPU too.
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182, section 2.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        drop_p: float = 0.0,
        **factory: Unpack[Factory],
    ) -> None:
        super().__init__()
        for name in factory:
            if name not in ("device", "dtype"):
                why = "proj_size is not offered" if name == "proj_size" else "see nn.LSTM's"
                raise TypeError(f"{name}: WeightDroppedLSTM has no such argument; {why}")
        _check_types(
            {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers},
            {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional},
        )
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout: expected a chance in [0, 1], found {dropout}")
        if dropout > 0 and num_layers == 1:  # nn.LSTM warns too
            why = "it acts between layers; drop_p drops recurrent weights"
            warnings.warn(f"dropout={dropout} does nothing with num_layers=1: {why}", stacklevel=2)
        functional.check_drop_p(drop_p)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.drop_p = drop_p
        for k, names in enumerate(self._weight_names()):
            n_directions = 2 if bidirectional else 1
            features = input_size if k < n_directions else n_directions * hidden_size
            for name, columns in zip(names, ([features], [hidden_size], [], []), strict=False):
                empty = torch.empty(4 * hidden_size, *columns, **factory)
                self.register_parameter(name, nn.Parameter(empty))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1 / sqrt(H), 1 / sqrt(H)), as nn.LSTM does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Do nothing: no kernel here needs one buffer of weights, but nn.LSTM's users call this."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction, in nn.LSTM's order."""
        return [[getattr(self, name) for name in names] for names in self._weight_names()]

    def _weight_names(self) -> list[list[str]]:
        kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [
            [f"{kind}_l{layer}{direction}" for kind in kinds]
            for layer in range(self.num_layers)
            for direction in directions
        ]

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        lengths: Tensor | None = None,
        chunk_rows: Sequence[int] | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run the layers over a batch, one sequence or a PackedSequence.

        Args:
            input: see the class for shapes.
            hx: h_0 and c_0, each [L D, B, H], or [L D, H] beside [T, I]; None: zeros. c_0 may be
                float32 beside 16-bit input.
            lengths: steps of each row of a padded batch, in 1..T; int64, shape [B]; None: all T.
                Beyond its length a row's output is 0 and its state stands still.
            chunk_rows: rows of each chunk, where the batch is the chunks of documents side by side,
                each of which begins where the one before ended: see functional.lstm_chunks. B of hx
                and of the state returned is that of the last chunk.

        Returns:
            output: h of the last layer, both directions side by side.
            state: h_n and c_n, shaped like hx, after each row's last step.

        Raises:
            ValueError: a shape, dtype or device that does not fit; two kinds of lengths; chunks of
                what is no batch, or in both directions.
        """
        if chunk_rows is not None:
            self._check_chunks(input, lengths)
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx, lengths)
        _check_shape(input, self.input_size, self.batch_first)
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        n_states = chunk_rows[-1] if chunk_rows else x.shape[1]
        state = self._checked_state(hx, [n_states] if batched else [])
        y, (h_n, c_n) = self._run(x, state, lengths, chunk_rows)
        if not batched:
            return y.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return y.transpose(0, 1) if self.batch_first else y, (h_n, c_n)

    def _check_chunks(self, input: Tensor | PackedSequence, lengths: Tensor | None) -> None:
        """Raise ValueError unless the layers can run over chunks."""
        if isinstance(input, PackedSequence) or input.dim() != 3 or lengths is not None:
            raise ValueError("chunk_rows: expected beside a batch of three dimensions, no lengths")
        if self.bidirectional:
            raise ValueError(
                "chunk_rows: a chunk cannot begin where the next one ends; "
                "bidirectional layers have no chunks"
            )

    def _run_packed(
        self, packed: PackedSequence, hx: State | None, lengths: Tensor | None
    ) -> tuple[PackedSequence, State]:
        """Run the layers over a PackedSequence; states have the order of rows before packing."""
        if lengths is not None:
            raise ValueError("lengths: expected None beside a PackedSequence, which has its own")
        rows, n_rows, order, order_back = packed  # rows [N, I], n_rows [T]
        if rows.dim() != 2 or rows.shape[1] != self.input_size:
            expected = f"expected packed rows of shape [N, {self.input_size}]"
            raise ValueError(f"input: {expected}, found {list(rows.shape)}")
        x, lengths = pad_packed_sequence(PackedSequence(rows, n_rows))  # [T, B, I], longest first
        state = self._checked_state(hx, [x.shape[1]])
        if state is not None and order is not None:
            state = state[0].index_select(1, order), state[1].index_select(1, order)
        y, (h_n, c_n) = self._run(x, state, lengths)
        if order_back is not None:
            h_n, c_n = h_n.index_select(1, order_back), c_n.index_select(1, order_back)
        rows = pack_padded_sequence(y, lengths).data
        return PackedSequence(rows, n_rows, order, order_back), (h_n, c_n)

    def _checked_state(self, hx: State | None, batch: list[int]) -> State | None:
        """Return hx, each [L D, B, H]; raise ValueError unless its shapes are [L D, *batch, H]."""
        if hx is None:
            return None
        h_0, c_0 = _check_state(hx, [len(self._weight_names()), *batch, self.hidden_size])
        return (h_0, c_0) if batch else (h_0.unsqueeze(1), c_0.unsqueeze(1))

    def _run(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        chunk_rows: Sequence[int] | None = None,
    ) -> tuple[Tensor, State]:
        """Run the layers over x [T, B, I] in the dtype that autocast asks for."""
        weights = self.all_weights
        device_type = x.device.type
        floating = x.is_floating_point() and x.dtype != torch.float64
        if not (floating and torch.is_autocast_enabled(device_type)):
            if x.dtype != weights[0][0].dtype:
                raise ValueError(
                    f"input: expected {weights[0][0].dtype} like the weights, found {x.dtype}; "
                    "convert one of them with .to()"
                )
            return self._run_layers(x, state, weights, lengths, chunk_rows)
        dtype = torch.get_autocast_dtype(device_type)
        if state is None:
            n_states = chunk_rows[-1] if chunk_rows else x.shape[1]
            h_0 = x.new_zeros(len(weights), n_states, self.hidden_size)
            state = h_0, h_0
        state = state[0].to(dtype), state[1].float()
        if weights[0][0].dtype != torch.float32:  # float32 is rounded by the kernels
            weights = [[weight.to(dtype) for weight in layer] for layer in weights]
        # Off inside: autocast also reaches a kernel's own products, which are meant to be float32.
        with torch.autocast(device_type, enabled=False):
            return self._run_layers(x.to(dtype), state, weights, lengths, chunk_rows)

    def _run_layers(
        self,
        x: Tensor,
        state: State | None,
        weights: list[list[Tensor]],
        lengths: Tensor | None,
        chunk_rows: Sequence[int] | None,
    ) -> tuple[Tensor, State]:
        """Run the layers over x [T, B, I] in its own dtype; state is None or each [L D, B, H]."""
        drop_p = self.drop_p if self.training else 0.0
        seeds = functional.draw_seeds(len(weights), x.device) if drop_p > 0 else None
        n_directions = 2 if self.bidirectional else 1
        finals = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0:
                x = nn.functional.dropout(x, self.dropout, self.training)
            ys = []
            for k in range(layer * n_directions, (layer + 1) * n_directions):
                w_ih, w_hh, *biases = weights[k]
                b_ih, b_hh = biases or (None, None)
                of_layer = None if state is None else (state[0][k], state[1][k])
                seed = None if seeds is None else seeds[k : k + 1]
                weights_k = w_ih, w_hh, b_ih, b_hh
                if chunk_rows is not None:
                    y, final = functional.lstm_chunks(
                        x, of_layer, weights_k, chunk_rows, drop_p, seed
                    )
                else:
                    reverse = k % n_directions == 1
                    y, final = functional.lstm(
                        x, of_layer, weights_k, drop_p, seed, lengths, reverse
                    )
                ys.append(y)
                finals.append(final)
            x = torch.cat(ys, dim=2) if self.bidirectional else ys[0]
        h_n, c_n = (torch.stack(states) for states in zip(*finals, strict=True))
        return x, (h_n, c_n)

    def extra_repr(self) -> str:
        """Name the sizes, what is not nn.LSTM's default, and drop_p in repr()."""
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        changed = [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        sizes = f"{self.input_size}, {self.hidden_size}"
        return ", ".join([sizes, *changed, f"drop_p={self.drop_p}"])


def _check_types(sizes: dict[str, object], flags: dict[str, object]) -> None:
    """Raise ValueError naming the first size that is no integer >= 1, or flag that is no bool."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            hint = "; a chance goes by name: drop_p=..." if isinstance(size, float) else ""
            raise ValueError(f"{name}: expected an integer of at least 1, found {size!r}{hint}")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name}: expected True or False, found {flag!r}")


def _check_shape(input: Tensor, input_size: int, batch_first: bool) -> None:
    """Raise ValueError unless input is a batch or one sequence of input_size features."""
    shape = list(input.shape)
    if len(shape) not in (2, 3) or shape[-1] != input_size or 0 in shape:
        batch = f"[B, T, {input_size}]" if batch_first else f"[T, B, {input_size}]"
        expected = f"expected shape {batch}, or [T, {input_size}] for one sequence, T, B >= 1"
        raise ValueError(f"input: {expected}, found {shape}")


def _check_state(hx: Sequence[Tensor], expected: list[int]) -> State:
    """Return hx as a pair; raise ValueError unless it is two tensors of the expected shape."""
    if len(hx) != 2:
        raise ValueError(f"hx: expected the pair (h_0, c_0), found {len(hx)} of them")
    for name, tensor in zip(("h_0", "c_0"), hx, strict=True):
        if list(tensor.shape) != expected:
            raise ValueError(f"hx: expected {name} of shape {expected}, found {list(tensor.shape)}")
    return hx[0], hx[1]
