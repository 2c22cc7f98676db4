"""The models as graphs of tensors only: batch and length are free, state comes in and goes out.

torch.export makes the length of an nn.LSTM a constant; that of our op, whose fake kernel computes
with sizes as they are, stays free. A document runs as one call of each layer: without gradients
that is what TextClassifier computes in chunks.

Sizes: T time steps, B batch rows, E embedding size, H hidden units, V vocabulary, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulmfit_fast.model import AWDLSTM, EncoderState, LanguageModel, TextClassifier
from ulmfit_fast.modules import WeightDroppedLSTM

#: Rows and steps of the tensors that a graph is traced with: no other size of the graph is 5 or 7.
EXAMPLE_ROWS, EXAMPLE_STEPS = 5, 7


class ExportableEncoder(nn.Module):
    """Embedding and LSTM layers of an AWDLSTM without dropouts; it shares their parameters.

    Shape: ids [B, T] int64, state with (h, c) per layer, each [B, H], lengths [B] or None
        -> output of the last layer [T, B, E], 0 beyond a row's length, and the state after it.
    """

    def __init__(self, encoder: AWDLSTM) -> None:
        super().__init__()
        self.table = encoder.embedding.weight
        self.weights = nn.ParameterList()
        self.sizes: list[int] = []
        for rnn in layers_of(encoder):
            (w_ih, w_hh, b_ih, b_hh), *_ = rnn.all_weights
            bias = nn.Parameter((b_ih + b_hh).detach(), requires_grad=False)
            self.weights.extend([w_ih, w_hh, bias])
            self.sizes.append(w_hh.shape[1])

    def forward(
        self, ids: Tensor, state: EncoderState, lengths: Tensor | None
    ) -> tuple[Tensor, EncoderState]:
        """Run the layers; see the class for shapes."""
        x = F.embedding(ids.t(), self.table)
        new_state = []
        for layer, (h, c) in enumerate(state):
            w_ih, w_hh, bias = (self.weights[3 * layer + k] for k in range(3))
            x, h, c, _, _ = torch.ops.ulmfit_fast.lstm_forward(
                x, w_ih, w_hh, bias, h, c, lengths, None, 0.0, False, False
            )
            new_state.append((h, c))
        return x, new_state


class ExportableClassifier(nn.Module):
    """What a TextClassifier computes in eval().

    Shape: ids [B, T] int64 padded at the end, lengths [B] int64 in 1..T -> logits [B, C].
    """

    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.encoder = ExportableEncoder(model.encoder)
        self.head = model.head
        self.bptt, self.max_len = model.bptt, model.max_len

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits; see the class for shapes."""
        zeros = [self.encoder.table.new_zeros(ids.shape[0], H) for H in self.encoder.sizes]
        output, state = self.encoder(ids, [(zero, zero.clone()) for zero in zeros], lengths)
        last = state[-1][0]
        start = self.first_pooled(lengths)
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(1)  # [T, 1]
        pooled = ((positions >= start) & (positions < lengths)).unsqueeze(2)  # [T, B, 1]
        largest = output.masked_fill(~pooled, float("-inf")).amax(dim=0)
        mean = torch.where(pooled, output, 0.0).sum(dim=0) / (lengths - start).unsqueeze(1)
        logits: Tensor = self.head(torch.cat([last, largest, mean], dim=1))
        return logits

    def first_pooled(self, lengths: Tensor) -> Tensor:
        """Return the position where each row's pooling begins, as chunks.plan_chunks has it; [B].

        The chunks that begin within a document's last max_len tokens are pooled, and its last one.
        """

        def n_chunks(n: Tensor) -> Tensor:
            return (n + (self.bptt - 1)) // self.bptt

        before = n_chunks((lengths - self.max_len).clamp(min=0))
        return torch.minimum(n_chunks(lengths) - 1, before) * self.bptt


class ExportableLanguageModel(nn.Module):
    """What a LanguageModel computes in eval(), with its state as an argument.

    Shape: ids [B, T] int64, state with (h, c) per layer, each [B, H]; zeros begin a text
        -> logits of every next token [B, T, V], state.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.encoder = ExportableEncoder(model.encoder)
        self.bias = model.decoder_bias

    def forward(self, ids: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """Return logits and state; see the class for shapes."""
        output, state = self.encoder(ids, state, None)
        rows = output.transpose(0, 1).flatten(0, 1)  # two dimensions: ONNX then has a Gemm
        logits = F.linear(rows, self.encoder.table, self.bias)
        return logits.view(ids.shape[0], ids.shape[1], -1), state


@dataclass(frozen=True)
class Exportable:
    """A module, and what tracing it needs.

    Attributes:
        module: in eval(), parameters frozen.
        inputs: example arguments.
        dynamic_shapes: of the arguments, as torch.export wants them.
        input_names: of the flattened arguments.
        output_names: of the flattened results.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]
    input_names: list[str]
    output_names: list[str]


def exportable(model: TextClassifier | LanguageModel) -> Exportable:
    """Return the graph of a model on the CPU, for tracing."""
    rows, steps = torch.export.Dim("batch"), torch.export.Dim("length")
    ids = torch.ones(EXAMPLE_ROWS, EXAMPLE_STEPS, dtype=torch.int64)
    if isinstance(model, TextClassifier):
        lengths = torch.full((EXAMPLE_ROWS,), EXAMPLE_STEPS)
        return Exportable(
            ExportableClassifier(model).eval(),
            (ids, lengths),
            ({0: rows, 1: steps}, {0: rows}),
            ["ids", "lengths"],
            ["logits"],
        )
    state = zero_state(model.encoder, EXAMPLE_ROWS)
    names = [f"{kind}{layer}" for layer in range(len(state)) for kind in "hc"]
    return Exportable(
        ExportableLanguageModel(model).eval(),
        (ids, state),
        ({0: rows, 1: steps}, [({0: rows}, {0: rows}) for _ in state]),
        ["ids", *names],
        ["logits", *(f"{name}_next" for name in names)],
    )


def layers_of(encoder: AWDLSTM) -> list[WeightDroppedLSTM]:
    """Return the LSTM layers of an encoder, lowest first."""
    return [rnn for rnn in encoder.rnns if isinstance(rnn, WeightDroppedLSTM)]


def zero_state(encoder: AWDLSTM, n_rows: int) -> EncoderState:
    """Return the state in which a text begins: zeros, (h, c) per layer, each [B, H]."""
    sizes = [rnn.hidden_size for rnn in layers_of(encoder)]
    return [(torch.zeros(n_rows, H), torch.zeros(n_rows, H)) for H in sizes]
