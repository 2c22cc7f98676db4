"""The AWD-LSTM: embedding and stacked weight-dropped LSTMs, its sizes and its dropouts.

Sizes: T time steps, B batch rows, E embedding size, H hidden units, V vocabulary.
Token ids come batch first, [B, T]; inside, sequences run time first, [T, B, ...].
State is an argument: a list with one (h, c) per layer, never hidden in the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ulmfit_fast.files import from_json
from ulmfit_fast.functional import State
from ulmfit_fast.modules import EmbeddingDropout, VariationalDropout, WeightDroppedLSTM

EncoderState = list[State]
LayerGroups = dict[str, list[nn.Parameter]]


@dataclass(frozen=True)
class Dropouts:
    """Chances of the five dropouts of an AWD-LSTM.

    Attributes:
        output: features of the last layer, before the decoder or the head.
        hidden: features between two LSTM layers.
        input: features of the embedded text.
        embed: whole words.
        weight: entries of each hidden-to-hidden matrix.
    """

    output: float = 0.4
    hidden: float = 0.3
    input: float = 0.4
    embed: float = 0.05
    weight: float = 0.5

    def scaled(self, multiplier: float) -> Dropouts:
        """Return all five chances times the multiplier (fastai's drop_mult)."""
        return Dropouts(**{name: p * multiplier for name, p in asdict(self).items()})


@dataclass(frozen=True)
class AWDLSTMConfig:
    """Sizes and dropouts of an encoder.

    Attributes:
        vocab_size: V.
        embed_size: E; also the width of the last layer, so that the softmax can be tied.
        hidden_size: H of every layer but the last.
        n_layers: LSTM layers, at least 2.
        pad_id: id of the padding token.
        dropouts: chances of the five dropouts.
    """

    vocab_size: int
    embed_size: int = 400
    hidden_size: int = 1152
    n_layers: int = 3
    pad_id: int = 1
    dropouts: Dropouts = field(default_factory=Dropouts)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AWDLSTMConfig:
        """Rebuild a config from asdict()'s output.

        Raises:
            InputError: a field is missing, unknown, or of another type.
        """
        config: AWDLSTMConfig = from_json(cls, values, "model")
        return config

    def with_dropouts(self, dropouts: Dropouts) -> AWDLSTMConfig:
        """Return the same sizes with other dropouts."""
        return replace(self, dropouts=dropouts)


def resize_state(state: EncoderState, batch_size: int) -> EncoderState:
    """Keep the first rows of each state, or append rows of zeros; each becomes [batch_size, H]."""

    def resize(x: Tensor) -> Tensor:
        missing = batch_size - len(x)
        return torch.cat([x, x.new_zeros(missing, x.shape[1])]) if missing > 0 else x[:batch_size]

    return [(resize(h), resize(c)) for h, c in state]


class AWDLSTM(nn.Module):
    """Embedding and stacked weight-dropped LSTMs with variational dropout between them.

    Shape: ids [B, T] int64, state or None -> output of the last layer [T, B, E], state.
    The returned state is detached: gradients never reach into an earlier call.
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182; sizes of fastai 2.8.
    """

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.embed_size, *[config.hidden_size] * (config.n_layers - 1)]
        p = config.dropouts
        self.embedding = EmbeddingDropout(
            config.vocab_size, config.embed_size, p.embed, config.pad_id
        )
        self.input_dropout = VariationalDropout(p.input)
        self.rnns = nn.ModuleList(
            WeightDroppedLSTM(i, h, drop_p=p.weight)
            for i, h in zip(sizes, [*sizes[1:], config.embed_size], strict=True)
        )
        self.hidden_dropout = VariationalDropout(p.hidden)

    def forward(
        self, ids: Tensor, state: EncoderState | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Run the encoder; see the class for shapes."""
        return self.run(self.embedding(ids.t()), state)

    def run(
        self,
        embedded: Tensor,
        state: EncoderState | None = None,
        chunk_rows: Sequence[int] | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """Run the layers over an embedded text.

        Args:
            embedded: shape [T, B, E].
            state: of the rows, or None for zeros.
            chunk_rows: rows of each chunk, where the B rows are the chunks of documents side by
                side: see functional.lstm_chunks. State is then that of the last chunk's rows.

        Returns:
            output: of the last layer; shape [T, B, E].
            state: detached.
        """
        x = self.input_dropout(embedded)
        new_state = []
        for layer, rnn in enumerate(self.rnns):
            if layer > 0:
                x = self.hidden_dropout(x)
            hx = None
            if state is not None:
                h, c = state[layer]  # [B, H]
                hx = h.unsqueeze(0), c.unsqueeze(0)
            x, (h, c) = rnn(x, hx, chunk_rows=chunk_rows)
            new_state.append((h.detach().squeeze(0), c.detach().squeeze(0)))
        return x, new_state


def rnn_groups(encoder: AWDLSTM) -> LayerGroups:
    """Return the LSTM parameters of an encoder by layer, lowest first."""
    return {f"rnn{layer}": list(rnn.parameters()) for layer, rnn in enumerate(encoder.rnns)}
