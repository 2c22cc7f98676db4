"""What the loop trains: a language model on token streams, or a classifier on documents."""

from __future__ import annotations

import math
from collections.abc import Generator
from functools import partial

import torch
from torch import Tensor, nn

from ulmfit_fast.model import EncoderState, LanguageModel, LossParts, TextClassifier
from ulmfit_fast.text.batches import ClassifierBatch, ClassifierBatches, LMStream
from ulmfit_fast.text.corpus import check_ids
from ulmfit_fast.training.config import StageName, TrainConfig
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.joining import here
from ulmfit_fast.training.micro_batches import (
    RowLimit,
    classifier_gradients,
    join_states,
    language_model_gradients,
    rows_of_state,
)
from ulmfit_fast.training.precision import Precision, choose_precision
from ulmfit_fast.training.prefetch import prefetch
from ulmfit_fast.training.steps import Batch, Metrics

# Rows of logits that exist at a time in validation: 1,024 x 60,000 floats are 245 MB.
VALIDATION_ROWS = 1024


class LanguageModelTask:
    """Next-token prediction over streams whose state runs on from batch to batch."""

    has_few_shapes = True

    def __init__(
        self,
        model: LanguageModel,
        train: LMStream,
        valid: LMStream | None,
        config: TrainConfig,
        stage: StageName,
    ) -> None:
        self.model = model
        self.train = train
        self.valid = valid
        self.config = config
        self.stage = stage
        self.device = model.decoder_bias.device
        for stream in (train, valid):
            if stream is not None:
                check_ids(stream.corpus, model.config.vocab_size)
        self.precision = choose_precision(config.precision, self.device)
        self.limit = RowLimit("validation", self.device)

    def describe(self) -> str:
        """Say how many streams run and how long a batch is."""
        about = "about " if self.config.variable_bptt else ""
        rows = f"{self.train.batch_size} x {about}{self.config.bptt} tokens"
        return f"batches of {rows}{on_processes(self.train.world_size)}"

    def n_batches(self, epoch: int) -> int:
        """Count the batches of an epoch."""
        return self.train.n_batches(epoch)

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Yield ids and targets of each batch from number start on."""
        n_rows, n_own = self.train.batch_size, len(self.train.rows)
        weight = n_own * self.train.world_size / n_rows
        for _, inputs in prefetch(self.train.batches(epoch, start), self.device, tuple):
            yield Batch(inputs, n_rows * inputs[0].shape[1], weight)

    def loss(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None
    ) -> tuple[LossParts, EncoderState]:
        """Return the loss of a batch and the state after it."""
        ids, targets = inputs
        with self.precision.computing():
            return self.model.loss(ids, targets, state, self.config.alpha, self.config.beta)

    def gradients_in_parts(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None, rows: int
    ) -> tuple[LossParts, EncoderState]:
        """Leave the gradient of a batch in the parameters, and return its loss and state."""
        return language_model_gradients(self, inputs, state, rows)

    def validate(self) -> Metrics:
        """Return loss (nats a token), perplexity and accuracy of the validation stream."""
        if self.valid is None:
            return {}
        self.model.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        batches = self.valid.batches(0) if self.valid.rows else ()
        state: EncoderState | None = None
        with torch.no_grad(), self.precision.computing():
            for _, (ids, targets) in prefetch(batches, self.device, tuple):
                found = self.limit.each(len(ids), partial(self._score, ids, targets, state))
                sums[:2] += sum(of_part for of_part, _ in found)
                state = join_states([after for _, after in found])
                sums[2] += ids.numel()
        here().meet("validation")  # the shares of some may take longer than the timeout
        sums = here().sum(sums)
        loss, accuracy = (sums[:2] / sums[2]).tolist()
        perplexity = math.exp(min(loss, 700.0))  # exp overflows a float beyond 709
        return {"valid_loss": loss, "perplexity": perplexity, "accuracy": accuracy}

    def _score(
        self, ids: Tensor, targets: Tensor, state: EncoderState | None, part: slice
    ) -> tuple[Tensor, EncoderState]:
        """Return the sums of score_tokens over some rows of a batch, and their state after it."""
        output, after = self.model.encoder(ids[part], rows_of_state(state, part))
        hidden, wanted = output.flatten(0, 1), targets[part].t().flatten()
        return score_tokens(self.model, hidden, wanted), after

    def score(self, metrics: Metrics) -> tuple[float, ...]:
        """Order by validation loss."""
        return (metrics["valid_loss"],) if "valid_loss" in metrics else ()


class ClassifierTask:
    """Document classification."""

    stage: StageName = "classifier"
    has_few_shapes = False

    def __init__(
        self,
        model: TextClassifier,
        train: ClassifierBatches,
        valid: ClassifierBatches | None,
        config: TrainConfig,
    ) -> None:
        self.model = model
        self.train = train
        self.valid = valid
        self.config = config
        self.device = next(model.parameters()).device
        for batches in (train, valid):
            if batches is not None:
                check_ids(batches.corpus, model.config.vocab_size)
        self.precision = choose_precision(config.precision, self.device)
        self.limit = RowLimit("validation", self.device)

    def describe(self) -> str:
        """Say how many texts a batch has."""
        return f"batches of {self.train.batch_size} texts{on_processes(self.train.world_size)}"

    def n_batches(self, epoch: int) -> int:
        """Count the batches of an epoch."""
        return self.train.n_batches(epoch)

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Yield ids, lengths and labels from batch start on; the lengths stay on the CPU."""
        batches, size = self.train.batches(epoch, start), self.train.world_size
        for batch, (ids, labels) in prefetch(batches, self.device, ids_and_labels):
            inputs = ids, batch.lengths, labels, batch.all_lengths
            weight = len(batch.rows) * size / len(batch.all_lengths)
            yield Batch(inputs, int(batch.all_lengths.sum()), weight)

    def loss(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None
    ) -> tuple[LossParts, None]:
        """Return the loss of a batch; documents begin anew in each."""
        ids, lengths, labels, *others = inputs
        all_lengths = others[0] if others else None
        alpha, beta = self.config.alpha, self.config.beta
        with self.precision.computing():
            parts, _ = self.model.loss(ids, lengths, labels, alpha, beta, all_lengths)
        return parts, None

    def gradients_in_parts(
        self, inputs: tuple[Tensor, ...], state: EncoderState | None, rows: int
    ) -> tuple[LossParts, None]:
        """Leave the gradient of a batch in the parameters, and return its loss."""
        return classifier_gradients(self, inputs, rows), None

    def validate(self) -> Metrics:
        """Return loss (nats a document), accuracy and error of the validation documents."""
        if self.valid is None:
            return {}
        logits, labels = classify(self.model, self.valid, self.precision, limit=self.limit)
        return classification_metrics(logits, labels)

    def score(self, metrics: Metrics) -> tuple[float, ...]:
        """Order by validation error, then loss."""
        return (metrics["error"], metrics["valid_loss"]) if "error" in metrics else ()


def on_processes(n: int) -> str:
    """Say on how many processes a batch is, if on more than one."""
    return f" on {n} processes" if n > 1 else ""


def required_labels(batch: ClassifierBatch) -> Tensor:
    """Return the labels of a batch that must have them."""
    if batch.labels is None:
        raise ValueError("labels: training and evaluation need a label for every document")
    return batch.labels


def ids_and_labels(batch: ClassifierBatch) -> tuple[Tensor, Tensor]:
    """Return what of a batch goes to the device."""
    return batch.ids, required_labels(batch)


def score_tokens(model: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return summed cross-entropy and number of right predictions, a slice of logits at a time.

    Args:
        model: its embedding and bias are the decoder.
        hidden: encoder output; shape [N, E].
        targets: next tokens; int64, shape [N].

    Returns:
        sums: float64, shape [2].
    """
    sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
    # Cast once, not for every slice as autocast would.
    weight, bias = (
        p.to(hidden.dtype) for p in (model.encoder.embedding.weight, model.decoder_bias)
    )
    for rows, wanted in zip(
        torch.split(hidden, VALIDATION_ROWS), torch.split(targets, VALIDATION_ROWS), strict=True
    ):
        logits = nn.functional.linear(rows, weight, bias)
        sums[0] += nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
        sums[1] += (logits.argmax(dim=1) == wanted).sum()
    return sums


def classify(
    model: TextClassifier,
    batches: ClassifierBatches,
    precision: Precision,
    copies: InferenceCopy | None = None,
    limit: RowLimit | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the logits of every document in its given order, and the labels.

    Where the batches are shared out to several processes, each runs its own, and gets all results.

    Args:
        model: trained.
        batches: documents.
        precision: to compute in.
        copies: keeps the weights rounded from call to call; None rounds them in every batch.
        limit: rows at a time, lowered where memory runs out; None begins with whole batches.

    Returns:
        logits: float32 on the CPU; shape [documents, C].
        labels: int64 on the CPU, shape [documents]; -1 where a document has none.
    """
    device = next(model.parameters()).device
    logits, labels, rows = [], [], []
    if copies is not None and precision.name == "bf16":
        model = copies.of(model, torch.bfloat16)
    was_training = model.training
    model.eval()
    limit = limit or RowLimit("classifying", device)
    with torch.no_grad(), precision.computing():
        for batch, (ids,) in prefetch(batches.batches(), device, lambda batch: (batch.ids,)):
            found = torch.cat(limit.each(len(ids), partial(_logits, model, ids, batch.lengths)))
            logits.append(found[: len(batch.rows)])
            labels.append(torch.full_like(batch.rows, -1) if batch.labels is None else batch.labels)
            rows.append(batch.rows)
    model.train(was_training)
    of_all = [torch.cat(logits), torch.cat(labels), torch.cat(rows)]
    if batches.world_size > 1:
        here().meet("validation")
        counts = batches.counts()
        of_all = [here().gather(each, counts) for each in of_all]
    order = of_all[2].argsort()
    return of_all[0][order], of_all[1][order]


def _logits(model: TextClassifier, ids: Tensor, lengths: Tensor, part: slice) -> Tensor:
    """Return the logits of some rows of a batch; float32 on the CPU."""
    longest = int(lengths[part].max())
    logits: Tensor = model(ids[part, :longest], lengths[part])
    return logits.float().cpu()


def classification_metrics(logits: Tensor, labels: Tensor) -> Metrics:
    """Return loss (nats a document), accuracy and error.

    Args:
        logits: shape [documents, C].
        labels: int64, shape [documents].
    """
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    loss = nn.functional.cross_entropy(logits, labels).item()
    return {"valid_loss": loss, "accuracy": accuracy, "error": 1.0 - accuracy}
