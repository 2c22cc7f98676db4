"""The language model and the text classifier of ULMFiT.

Sizes: T time steps, B batch rows, E embedding size, H hidden units, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ulmfit_fast import functional
from ulmfit_fast.chunks import (
    Chunk,
    align_chunks,
    chunks_as_rows,
    join_chunks,
    plan_chunks,
    stack_chunks,
)
from ulmfit_fast.encoder import (
    AWDLSTM,
    AWDLSTMConfig,
    Dropouts,
    EncoderState,
    LayerGroups,
    resize_state,
    rnn_groups,
)
from ulmfit_fast.modules import VariationalDropout

__all__ = [
    "AWDLSTM",
    "AWDLSTMConfig",
    "Dropouts",
    "EncoderState",
    "LanguageModel",
    "LayerGroups",
    "LossParts",
    "TextClassifier",
    "resize_state",
    "rnn_groups",
]


#: Hidden units of a classifier's head, as in the paper.
HEAD_SIZE = 50


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
        functional.check_ids(ids, self.config.vocab_size)
        raw, state = self.encoder(ids, state)
        hidden = self.output_dropout(raw).transpose(0, 1)
        logits = nn.functional.linear(hidden, self.encoder.embedding.weight, self.decoder_bias)
        return logits, state

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        state: EncoderState | None = None,
        alpha: float = 0.0,
        beta: float = 0.0,
    ) -> tuple[LossParts, EncoderState]:
        """Return the loss of predicting targets [B, T] from ids [B, T], and the next state.

        Args:
            ids: tokens; int64, shape [B, T].
            targets: the token after each, -100 where it does not count; int64, shape [B, T].
            state: state of the rows, or None for zeros.
            alpha: weight of the activation regularisation; 2 in AWD-LSTM and fastai.
            beta: weight of the temporal regularisation; 1 there.

        Returns:
            loss: parts, mean over tokens in nats.
            state: detached state after the last token.

        Raises:
            ValueError: targets of another shape than ids, or a token outside the vocabulary.
        """
        functional.check_ids(ids, self.config.vocab_size)
        if targets.shape != ids.shape:
            expected = f"expected shape {list(ids.shape)} like ids"
            raise ValueError(f"targets: {expected}, found {list(targets.shape)}")
        functional.check_ids(targets, self.config.vocab_size, "targets", ignore=-100)
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

    Documents run in chunks of bptt tokens whose state passes on detached (BPT3C). With gradients
    the pooled chunks are rows of one batch: weights and words are dropped once for all of them,
    features once for each row. Without, several run as one, with one draw of each mask. A row's
    logits do not depend on the rows beside it, on its place, or on the padding behind it; AR and
    TAR in loss() average over the padded batch, as fastai's do.

    Args:
        config: sizes and dropouts of the encoder.
        n_classes: C.
        bptt: tokens of a chunk.
        max_len: only the chunks that begin within a document's last max_len tokens are pooled;
            older ones run without gradients.
        hidden_size: units of the head's hidden layer.

    Shape: ids [B, T] int64 padded at the end, lengths [B] -> logits [B, C].
    Raises: ValueError if a row has no token, lengths do not fit ids, or a token is outside V.
    Source: Howard, Ruder 2018, arXiv:1801.06146, section 3.3; layout of fastai 2.8.
    """

    def __init__(
        self,
        config: AWDLSTMConfig,
        n_classes: int,
        bptt: int = 72,
        max_len: int = 1440,
        hidden_size: int = HEAD_SIZE,
    ) -> None:
        super().__init__()
        self.config = config
        self.n_classes = n_classes
        self.bptt = bptt
        self.max_len = max_len
        self.hidden_size = hidden_size
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

    def encode(
        self,
        ids: Tensor,
        lengths: Sequence[int] | Tensor,
        part: slice | None = None,
        all_lengths: Sequence[int] | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the encoder over whole documents.

        Args:
            ids: tokens, padded at the end; int64, shape [B, T].
            lengths: tokens of each row; integers in 1..T. On the CPU, so that no device waits.
            part: rows to run as they would among all, counted from the longest down; None: all.
                What is returned has these rows alone, longest first.
            all_lengths: of a batch whose other rows other processes have; output is then as long
                as if all were here.

        Returns:
            pooled: [last, max, mean] of each row, float32 or wider; shape [B, 3E].
            output: of the encoder, kept chunks, longest row first, 0 before a row; [T', B, E].
        """
        functional.check_ids(ids, self.config.vocab_size)
        plan = plan_chunks(lengths, ids.shape[1], self.bptt, self.max_len, all_lengths)
        if len(plan.order) != len(ids):
            expected = f"expected {len(ids)}, one for each row of ids"
            raise ValueError(f"lengths: {expected}, found {len(plan.order)}")
        lead = 0
        if part is not None:
            plan, lead = plan.part(part)
        rows = plan.on_device(ids.device)
        aligned = align_chunks(ids, rows, plan.chunks[-1][0].stop, self.config.pad_id)
        state: EncoderState | None = None
        with torch.no_grad():
            for columns, n_rows in join_chunks(plan.old):
                state = resize_state(state, n_rows) if state else None
                _, state = self.encoder(aligned[:n_rows, columns], state)
        if torch.is_grad_enabled():
            output = self._run_chunks(aligned, plan.kept, state)
        else:
            output = self._run_joined(aligned, plan.kept, state)
        if lead:
            output = nn.functional.pad(output, (0, 0, 0, 0, lead, 0))
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        pooled = functional.concat_pool(wide.transpose(0, 1), rows.start, rows.end)
        if plan.missing:
            output = nn.functional.pad(output, (0, 0, 0, 0, plan.missing, 0))
        return pooled[rows.place], output

    def _run_chunks(
        self, aligned: Tensor, chunks: Sequence[Chunk], state: EncoderState | None
    ) -> Tensor:
        """Run chunks of bptt tokens as rows of one batch; shapes as in encode."""
        ids = chunks_as_rows(aligned, chunks, self.config.pad_id)
        rows = [n_rows for _, n_rows in chunks]
        state = resize_state(state, rows[-1]) if state else None
        embedded = self.encoder.embedding(ids)
        output, _ = self.encoder.run(embedded, state, rows if len(rows) > 1 else None)
        outputs = list(torch.split(output, rows, dim=1))
        columns, _ = chunks[-1]
        outputs[-1] = outputs[-1][: columns.stop - columns.start]
        return stack_chunks(outputs, len(aligned))

    def _run_joined(
        self, aligned: Tensor, chunks: Sequence[Chunk], state: EncoderState | None
    ) -> Tensor:
        """Run chunks, neighbours joined, one after the other; shapes as in encode."""
        outputs = []
        for columns, n_rows in join_chunks(chunks):
            state = resize_state(state, n_rows) if state else None
            output, state = self.encoder(aligned[:n_rows, columns], state)
            outputs.append(output)
        return stack_chunks(outputs, len(aligned))

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
        self,
        ids: Tensor,
        lengths: Tensor,
        labels: Tensor,
        alpha: float = 0.0,
        beta: float = 0.0,
        all_lengths: Tensor | None = None,
    ) -> tuple[LossParts, Tensor]:
        """Return the loss of predicting labels [B], and the logits [B, C].

        Args:
            ids: tokens, padded at the end; int64, shape [B, T].
            lengths: tokens of each row; int64, shape [B], on the CPU.
            labels: class of each row; int64, shape [B]. None at all where no row counts: the loss
                is then 0 but for the regularisation, and every parameter has a gradient.
            alpha: weight of the activation regularisation.
            beta: weight of the temporal regularisation.
            all_lengths: of a batch whose other rows other processes have; int64, on the CPU. The
                mean of their losses, weighted by their rows, is then that of the whole batch.

        Returns:
            loss: parts, mean over documents in nats.
            logits: shape [B, C].
        """
        pooled, output = self.encode(ids, lengths, all_lengths=all_lengths)
        logits = self.classify(pooled[: len(labels)])
        if len(labels):
            cross_entropy = nn.functional.cross_entropy(logits.float(), labels)
        else:
            cross_entropy = logits.float().sum()
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
