"""One pass of a classifier over texts: what it pools of each, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ulmfit_fast.text.batches import ClassifierBatches
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.micro_batches import RowLimit
from ulmfit_fast.training.prefetch import prefetch
from ulmfit_fast.training.trainer import ULMFiTTrainer

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Read:
    """Some of the texts that were read.

    Attributes:
        rows: their places in the corpus; shape [B].
        features: what the head is given of each, at length 1; float32, shape [B, 3E].
        probabilities: of every class; float64, shape [B, C].
    """

    rows: Rows
    features: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float64]


class Reader:
    """Runs a trainer's classifier over texts, in the precision and the batches of `predict`.

    Args:
        trainer: with a classifier.
    """

    def __init__(self, trainer: ULMFiTTrainer) -> None:
        if trainer.classifier is None or trainer.tokenizer is None:
            raise ValueError("trainer: expected one with a classifier")
        self.model, self.tokenizer = trainer.classifier, trainer.tokenizer
        self.precision = trainer.precision
        self.batch_size = trainer.config.classifier.batch_size
        self._copies = InferenceCopy()

    def read(self, corpus: Corpus) -> Iterator[Read]:
        """Yield the texts of a corpus, batch by batch, the longest first."""
        if not len(corpus):
            return
        was_training = self.model.training
        model = self.model.eval()
        if self.precision.name == "bf16":
            model = self._copies.of(model, torch.bfloat16)
        batches = ClassifierBatches(corpus, None, self.batch_size, pad_id=self.tokenizer.pad_id)
        device = next(model.parameters()).device
        limit = RowLimit("classifying", device)
        try:
            for batch, (ids,) in prefetch(batches.batches(), device, lambda batch: (batch.ids,)):
                with torch.no_grad(), self.precision.computing():
                    lengths = batch.lengths
                    pooled = torch.cat(limit.each(
                        len(ids), lambda part: model.encode(ids[part], lengths[part])[0]  # noqa: B023
                    ))  # fmt: skip
                    logits = model.classify(pooled)
                features = torch.nn.functional.normalize(pooled.float(), dim=1)
                yield Read(
                    rows=batch.rows.numpy(),
                    features=features.cpu().numpy(),
                    probabilities=logits.float().softmax(dim=1).double().cpu().numpy(),
                )
        finally:
            self.model.train(was_training)
