"""A model's description in config.json, and the model made from it again."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from ulmfit_fast.model import HEAD_SIZE, AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.training.config import TrainConfig


def describe_model(model: LanguageModel | TextClassifier, labels: list[str]) -> dict[str, Any]:
    """Return the kind, sizes and classes of a model, for JSON."""
    is_classifier = isinstance(model, TextClassifier)
    return {
        "kind": "classifier" if is_classifier else "language_model",
        "model": asdict(model.config),
        "labels": labels if is_classifier else [],
        "head_size": model.hidden_size if isinstance(model, TextClassifier) else None,
    }


def restore_model(
    values: dict[str, Any], tensors: dict[str, Tensor], trained_with: TrainConfig
) -> LanguageModel | TextClassifier:
    """Return a model from its description and its tensors.

    Args:
        values: of describe_model; those of before 0.1.0 have no head_size.
        tensors: state dict.
        trained_with: chunks of a classifier.
    """
    config = AWDLSTMConfig.from_dict(values["model"])
    model: LanguageModel | TextClassifier
    if values["kind"] == "classifier":
        model = TextClassifier(
            config,
            len(values["labels"]),
            trained_with.bptt,
            trained_with.max_len,
            values.get("head_size") or HEAD_SIZE,
        )
    else:
        model = LanguageModel(config)
    model.load_state_dict(tensors)
    return model


def settings_of(model: LanguageModel | TextClassifier, config: TrainConfig) -> TrainConfig:
    """Return settings with the chunks of a classifier, which a loaded one keeps under others."""
    if isinstance(model, TextClassifier):
        return replace(config, bptt=model.bptt, max_len=model.max_len)
    return config
