"""A classifier in the two steps of a server: texts to ids, ids to answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ulmfit_fast.errors import InputError
from ulmfit_fast.text.batches import ClassifierBatches
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.messages import Ids
from ulmfit_fast.training.evaluation import Prediction, predictions
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.tasks import classify
from ulmfit_fast.training.trainer import ULMFiTTrainer


class Predictor:
    """A trained classifier; for one thread at a time.

    Args:
        trainer: has a classifier.

    Attributes:
        labels: names of the classes.

    Raises:
        InputError: there is no classifier.
    """

    def __init__(self, trainer: ULMFiTTrainer) -> None:
        if trainer.classifier is None or trainer.tokenizer is None:
            raise InputError("no classifier to serve: train one, or load a classifier's folder")
        self.labels = trainer.labels
        self.device = str(trainer.device)
        self.precision = trainer.precision
        self._model, self._tokenizer = trainer.classifier, trainer.tokenizer
        self._copies = InferenceCopy()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text, int32 [n_tokens]."""
        return self._tokenizer.encode(texts)

    def classify(self, ids: Sequence[Ids]) -> list[Prediction]:
        """Return the answer for each text, as one batch.

        The same to the last bit as `ULMFiTTrainer.predict` of these texts where they are one batch
        there, too. With other texts in the batch the sums of a matrix product may be taken in
        another order: within the rounding of the precision, as between any two batches.
        """
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        corpus = Corpus(np.concatenate(ids), offsets)
        batches = ClassifierBatches(corpus, None, len(ids), pad_id=self._tokenizer.pad_id)
        logits, _ = classify(self._model, batches, self.precision, self._copies)
        return predictions(logits, self.labels)
