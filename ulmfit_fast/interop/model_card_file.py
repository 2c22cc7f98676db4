"""A model card in the Hub's form: metadata in YAML above the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ulmfit_fast.interop.model_card import Card

PIPELINE = {"classifier": "text-classification", "language_model": "text-generation"}


class AsciiData(ModelCardData):
    """Metadata whose YAML is ASCII.

    PyYAML writes the spaces that are not ASCII, and U+0085, in a form that it does not read
    back: a data set named so would lose its name.
    """

    def to_yaml(
        self, line_break: str | None = None, original_order: list[str] | None = None
    ) -> str:
        """Return the metadata as YAML, every other character escaped."""
        values: dict[str, Any] = self.to_dict()  # type: ignore[no-untyped-call]
        names = [name for name in original_order or () if name in values]
        ordered = {name: values[name] for name in [*names, *values]}
        text: str = yaml.safe_dump(
            ordered, sort_keys=False, line_break=line_break, allow_unicode=False
        )
        return text.strip()


class CardFile(ModelCard):
    """The file README.md of a model's folder."""

    card_data_class = AsciiData


def card_file(card: Card, kind: str, tags: Sequence[str], text: str) -> CardFile:
    """Return the card of a model, with `text` below the metadata."""
    name = card.name or f"ulmfit-{kind.replace('_', '-')}"
    results = [
        EvalResult(
            task_type=PIPELINE[kind], dataset_type="text",
            dataset_name=card.metrics_on or "not stated", metric_type=metric,
            metric_value=value,
        )
        for metric, value in card.metrics.items()
    ]  # fmt: skip
    metadata = AsciiData(
        license=card.license,
        language=list(card.language) or None,
        library_name="ulmfit_fast",
        tags=list(tags),
        pipeline_tag=PIPELINE[kind],
        datasets=list(card.datasets) or None,
        base_model=card.base_model or None,
        metrics=list(card.metrics) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return CardFile(f"---\n{metadata.to_yaml()}\n---\n\n{text}")
