"""Results of a classifier on texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ulmfit_fast.training.notebook import html_table
from ulmfit_fast.training.tasks import classification_metrics


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: most probable class.
        probabilities: of every class, summing to 1.
    """

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """A classifier's results on labelled texts.

    Attributes:
        loss: mean cross-entropy, nats a text.
        accuracy: share of right answers.
        error: 1 - accuracy.
        n: texts.
        confusion: row true class, column answer; counts, shape [C, C].
        per_class: precision, recall, f1 and n of each class; 0 where undefined.
    """

    loss: float
    accuracy: float
    error: float
    n: int
    confusion: list[list[int]]
    per_class: dict[str, dict[str, float]]

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the scores of every class."""
        caption = f"accuracy {self.accuracy:.4f}, loss {self.loss:.4f}, {self.n:,} texts"
        return html_table(caption, "class", self.per_class)


def predictions(logits: Tensor, names: Sequence[str]) -> list[Prediction]:
    """Turn logits [documents, C] into probabilities with the names of the classes [C]."""
    return [
        Prediction(max(row, key=row.__getitem__), row)
        for row in (
            dict(zip(names, values, strict=True)) for values in logits.softmax(dim=1).tolist()
        )
    ]


def evaluation(logits: Tensor, labels: Tensor, names: Sequence[str]) -> Evaluation:
    """Compare logits [documents, C] with labels [documents]; names of the classes [C]."""
    C = len(names)
    metrics = classification_metrics(logits, labels)
    pairs = labels * C + logits.argmax(dim=1)
    confusion = torch.bincount(pairs, minlength=C * C).reshape(C, C)
    per_class = {}
    for index, name in enumerate(names):
        right = int(confusion[index, index])
        n_true, n_answered = int(confusion[index].sum()), int(confusion[:, index].sum())
        per_class[name] = {
            "precision": right / n_answered if n_answered else 0.0,
            "recall": right / n_true if n_true else 0.0,
            "f1": 2 * right / (n_true + n_answered) if n_true + n_answered else 0.0,
            "n": n_true,
        }
    return Evaluation(
        loss=metrics["valid_loss"],
        accuracy=metrics["accuracy"],
        error=metrics["error"],
        n=len(labels),
        confusion=confusion.tolist(),
        per_class=per_class,
    )
