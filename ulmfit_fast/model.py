"""The AWD-LSTM encoder, the language model and the text classifier of ULMFiT.

Sizes: T time steps, B batch rows, E embedding size, H hidden units, V vocabulary, C classes.
Token ids come batch first, [B, T]; inside, sequences run time first, [T, B, ...].
State is an argument: a list with one (h, c) per layer, never hidden in the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ulmfit_fast import functional
from ulmfit_fast.chunks import align_chunks, plan_chunks
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
        """Rebuild a config from asdict()'s output."""
        return cls(**{**values, "dropouts": Dropouts(**values["dropouts"])})

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
        x = self.input_dropout(self.embedding(ids.t()))  # [T, B, E]
        new_state = []
        for layer, rnn in enumerate(self.rnns):
            if layer > 0:
                x = self.hidden_dropout(x)
            hx = None
            if state is not None:
                h, c = state[layer]  # [B, H]
                hx = h.unsqueeze(0), c.unsqueeze(0)
            x, (h, c) = rnn(x, hx)
            new_state.append((h.detach().squeeze(0), c.detach().squeeze(0)))
        return x, new_state


@dataclass(frozen=True)
class LossParts:
    """A training loss and the part of it that is reported.

    Attributes:
        total: scalar to differentiate, with the regularisation.
        cross_entropy: scalar, detached, without it; nats per token or per document.
    """

    total: Tensor
    cross_entropy: Tensor


class LanguageModel(nn.Module):
    """AWD-LSTM with a softmax tied to the embedding.

    Shape: ids [B, T] int64, state or None -> logits [B, T, V], state.
    The decoder's weight is the embedding's (not its dropped copy); only its bias is its own.
    """

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AWDLSTM(config)
        self.output_dropout = VariationalDropout(config.dropouts.output)
        self.decoder_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self, ids: Tensor, state: EncoderState | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Return the logits of every next token; see the class for shapes."""
        raw, state = self.encoder(ids, state)
        hidden = self.output_dropout(raw).transpose(0, 1)
        logits = nn.functional.linear(hidden, self.encoder.embedding.weight, self.decoder_bias)
        return logits, state

    def loss(
        self, ids: Tensor, targets: Tensor, state: EncoderState | None, alpha: float, beta: float
    ) -> tuple[LossParts, EncoderState]:
        """Return the loss of predicting targets [B, T] from ids [B, T], and the next state.

        Args:
            ids: tokens; int64, shape [B, T].
            targets: the token after each; int64, shape [B, T].
            state: state of the rows, or None for zeros.
            alpha: weight of the activation regularisation.
            beta: weight of the temporal regularisation.

        Returns:
            loss: parts, mean over tokens in nats.
            state: detached state after the last token.
        """
        raw, state = self.encoder(ids, state)
        drop_p = self.output_dropout.drop_p if self.training else 0.0
        seed = functional.draw_seeds(1, raw.device) if drop_p > 0 else None
        dropped, penalty = functional.activation_regularization(raw, alpha, beta, drop_p, seed)
        cross_entropy = functional.linear_cross_entropy(
            dropped.flatten(0, 1),
            self.encoder.embedding.weight,
            self.decoder_bias,
            targets.t().flatten(),
        )
        return LossParts(cross_entropy + penalty, cross_entropy.detach()), state

    def undecayed_parameters(self) -> list[nn.Parameter]:
        """Return what weight decay leaves alone, as in fastai: the softmax's bias."""
        return [self.decoder_bias]

    def layer_groups(self) -> LayerGroups:
        """Return the parameters by layer, lowest first: rnn0, ..., embedding (with the softmax)."""
        groups = rnn_groups(self.encoder)
        groups["embedding"] = [self.encoder.embedding.weight, self.decoder_bias]
        return groups


class TextClassifier(nn.Module):
    """AWD-LSTM over documents of any length, pooled to [last, max, mean], and a small head.

    Documents run in chunks of bptt tokens whose state passes on detached (BPT3C). A row's logits do
    not depend on the rows beside it, on its place, or on the padding behind it.

    Args:
        config: sizes and dropouts of the encoder.
        n_classes: C.
        bptt: tokens of a chunk.
        max_len: only the chunks that begin within a document's last max_len tokens are pooled;
            older ones run without gradients.
        hidden_size: units of the head's hidden layer.

    Shape: ids [B, T] int64 padded at the end, lengths [B] -> logits [B, C].
    Raises: ValueError if a row has no token, or lengths do not fit ids.
    Source: Howard, Ruder 2018, arXiv:1801.06146, section 3.3; layout of fastai 2.8.
    """

    def __init__(
        self,
        config: AWDLSTMConfig,
        n_classes: int,
        bptt: int = 72,
        max_len: int = 1440,
        hidden_size: int = 50,
    ) -> None:
        super().__init__()
        self.config = config
        self.n_classes = n_classes
        self.bptt = bptt
        self.max_len = max_len
        self.encoder = AWDLSTM(config)
        pooled_size = 3 * config.embed_size
        self.head = nn.Sequential(
            nn.BatchNorm1d(pooled_size),
            nn.Dropout(config.dropouts.output),
            nn.Linear(pooled_size, hidden_size, bias=False),
            nn.ReLU(),
            nn.BatchNorm1d(hidden_size),
            nn.Dropout(0.1),
            nn.Linear(hidden_size, n_classes, bias=False),
        )

    def encode(self, ids: Tensor, lengths: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Run the encoder over whole documents.

        Args:
            ids: tokens, padded at the end; int64, shape [B, T].
            lengths: tokens of each row; integers in 1..T. On the CPU, so that no device waits.

        Returns:
            pooled: [last, max, mean] of each row, float32 or wider; shape [B, 3E].
            output: of the encoder, kept chunks, longest row first, 0 before a row; [T', B, E].
        """
        plan = plan_chunks(lengths, ids.shape[1], self.bptt, self.max_len)
        if len(plan.order) != len(ids):
            expected = f"expected {len(ids)}, one for each row of ids"
            raise ValueError(f"lengths: {expected}, found {len(plan.order)}")
        rows = plan.on_device(ids.device)
        aligned = align_chunks(ids, rows, plan.chunks[-1][0].stop, self.config.pad_id)
        state: EncoderState | None = None
        kept = []
        for chunk, (columns, n_rows) in enumerate(plan.chunks):
            if state is not None:
                state = resize_state(state, n_rows)
            with torch.set_grad_enabled(torch.is_grad_enabled() and chunk >= plan.first_kept):
                output, state = self.encoder(aligned[:n_rows, columns], state)
            if chunk >= plan.first_kept:
                kept.append(nn.functional.pad(output, (0, 0, 0, len(ids) - n_rows)))
        output = torch.cat(kept)
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        pooled = functional.concat_pool(wide.transpose(0, 1), rows.start, rows.end)
        return pooled[rows.place], output

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits [B, C] of pooled documents [B, 3E]; autocast has no say in the head."""
        dtype = next(self.head.parameters()).dtype
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled.to(dtype))  # type: ignore[no-any-return]

    def forward(self, ids: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return logits [B, C]; lengths default to the tokens before the trailing padding."""
        pooled, _ = self.encode(ids, self.lengths_of(ids) if lengths is None else lengths)
        return self.classify(pooled)

    def loss(
        self, ids: Tensor, lengths: Tensor, labels: Tensor, alpha: float, beta: float
    ) -> tuple[LossParts, Tensor]:
        """Return the loss of predicting labels [B], and the logits [B, C].

        Args:
            ids: tokens, padded at the end; int64, shape [B, T].
            lengths: tokens of each row; int64, shape [B], on the CPU.
            labels: class of each row; int64, shape [B].
            alpha: weight of the activation regularisation.
            beta: weight of the temporal regularisation.

        Returns:
            loss: parts, mean over documents in nats.
            logits: shape [B, C].
        """
        pooled, output = self.encode(ids, lengths)
        logits = self.classify(pooled)
        cross_entropy = nn.functional.cross_entropy(logits.float(), labels)
        _, penalty = functional.activation_regularization(output, alpha, beta)
        return LossParts(cross_entropy + penalty, cross_entropy.detach()), logits

    def lengths_of(self, ids: Tensor) -> Tensor:
        """Count the tokens before each row's trailing padding; int64, shape [B], on the CPU."""
        positions = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return (positions * (ids != self.config.pad_id)).amax(dim=1).cpu()

    def undecayed_parameters(self) -> list[nn.Parameter]:
        """Return what weight decay leaves alone, as in fastai: the batch norms."""
        norms = (m for m in self.head if isinstance(m, nn.BatchNorm1d))
        return [parameter for norm in norms for parameter in norm.parameters()]

    def layer_groups(self) -> LayerGroups:
        """Return the parameters by layer, lowest first: embedding, rnn0, ..., head."""
        return {
            "embedding": [self.encoder.embedding.weight],
            **rnn_groups(self.encoder),
            "head": list(self.head.parameters()),
        }


def rnn_groups(encoder: AWDLSTM) -> LayerGroups:
    """Return the LSTM parameters of an encoder by layer, lowest first."""
    return {f"rnn{layer}": list(rnn.parameters()) for layer, rnn in enumerate(encoder.rnns)}
