"""What the loop trains: a language model on token streams, or a classifier on documents."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ulmfit_fast.model import EncoderState, LanguageModel, LossParts, TextClassifier
from ulmfit_fast.text.batches import ClassifierBatch, ClassifierBatches, LMStream
from ulmfit_fast.training.config import StageName, TrainConfig
from ulmfit_fast.training.loop import Metrics

# Rows of logits that exist at a time in validation: 1,024 x 60,000 floats are 245 MB.
VALIDATION_ROWS = 1024


class LanguageModelTask:
    """Next-token prediction over streams whose state runs on from batch to batch."""

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

    def describe(self) -> str:
        """Say how many streams run and how long a batch is."""
        about = "about " if self.config.variable_bptt else ""
        return f"batches of {self.train.batch_size} x {about}{self.config.bptt} tokens"

    def n_batches(self, epoch: int) -> int:
        """Count the batches of an epoch."""
        return self.train.n_batches(epoch)

    def losses(self, epoch: int) -> Iterator[tuple[LossParts, int]]:
        """Yield the loss of each batch and its tokens."""
        state: EncoderState | None = None
        for ids, targets in self.train.batches(epoch):
            ids, targets = on_device(ids, self.device), on_device(targets, self.device)
            parts, state = self.model.loss(ids, targets, state, self.config.alpha, self.config.beta)
            yield parts, ids.numel()

    def validate(self) -> Metrics:
        """Return loss (nats a token), perplexity and accuracy of the validation stream."""
        if self.valid is None:
            return {}
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        n_tokens = 0
        state: EncoderState | None = None
        with torch.no_grad():
            for ids, targets in self.valid.batches(0):
                ids, targets = on_device(ids, self.device), on_device(targets, self.device)
                output, state = self.model.encoder(ids, state)
                sums += score_tokens(self.model, output.flatten(0, 1), targets.t().flatten())
                n_tokens += ids.numel()
        loss, accuracy = (sums / n_tokens).tolist()
        perplexity = math.exp(min(loss, 700.0))  # exp overflows a float beyond 709
        return {"valid_loss": loss, "perplexity": perplexity, "accuracy": accuracy}

    def score(self, metrics: Metrics) -> tuple[float, ...]:
        """Order by validation loss."""
        return (metrics["valid_loss"],) if "valid_loss" in metrics else ()


class ClassifierTask:
    """Document classification."""

    stage: StageName = "classifier"

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

    def describe(self) -> str:
        """Say how many texts a batch has."""
        return f"batches of {self.config.classifier.batch_size} texts"

    def n_batches(self, epoch: int) -> int:
        """Count the batches of an epoch."""
        return self.train.n_batches(epoch)

    def losses(self, epoch: int) -> Iterator[tuple[LossParts, int]]:
        """Yield the loss of each batch and its tokens."""
        for batch in self.train.batches(epoch):
            labels = required_labels(batch)
            parts, _ = self.model.loss(
                on_device(batch.ids, self.device),
                batch.lengths,
                on_device(labels, self.device),
                self.config.alpha,
                self.config.beta,
            )
            yield parts, int(batch.lengths.sum())

    def validate(self) -> Metrics:
        """Return loss (nats a document), accuracy and error of the validation documents."""
        if self.valid is None:
            return {}
        logits, labels = classify(self.model, self.valid)
        return classification_metrics(logits, labels)

    def score(self, metrics: Metrics) -> tuple[float, ...]:
        """Order by validation error, then loss."""
        return (metrics["error"], metrics["valid_loss"]) if "error" in metrics else ()


def on_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy x to the device; a GPU's stream goes on meanwhile."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def required_labels(batch: ClassifierBatch) -> Tensor:
    """Return the labels of a batch that must have them."""
    if batch.labels is None:
        raise ValueError("labels: training and evaluation need a label for every document")
    return batch.labels


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
    for rows, wanted in zip(
        torch.split(hidden, VALIDATION_ROWS), torch.split(targets, VALIDATION_ROWS), strict=True
    ):
        logits = nn.functional.linear(rows, model.encoder.embedding.weight, model.decoder_bias)
        sums[0] += nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
        sums[1] += (logits.argmax(dim=1) == wanted).sum()
    return sums


def classify(model: TextClassifier, batches: ClassifierBatches) -> tuple[Tensor, Tensor]:
    """Return the logits of every document in its given order, and the labels.

    Returns:
        logits: float32 on the CPU; shape [documents, C].
        labels: int64 on the CPU, shape [documents]; -1 where a document has none.
    """
    device = next(model.parameters()).device
    logits, labels, rows = [], [], []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches.batches():
            logits.append(model(on_device(batch.ids, device), batch.lengths).float().cpu())
            labels.append(torch.full_like(batch.rows, -1) if batch.labels is None else batch.labels)
            rows.append(batch.rows)
    model.train(was_training)
    order = torch.cat(rows).argsort()
    return torch.cat(logits)[order], torch.cat(labels)[order]


def classification_metrics(logits: Tensor, labels: Tensor) -> Metrics:
    """Return loss (nats a document), accuracy and error.

    Args:
        logits: shape [documents, C].
        labels: int64, shape [documents].
    """
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    loss = nn.functional.cross_entropy(logits, labels).item()
    return {"valid_loss": loss, "accuracy": accuracy, "error": 1.0 - accuracy}
