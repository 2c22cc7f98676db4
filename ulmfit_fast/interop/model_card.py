"""What a model card says: facts of a model, kept in its config.json, and the text made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ulmfit_fast.errors import InputError
from ulmfit_fast.training.evaluation import Evaluation

#: Control characters, half characters, and what turns the direction of the text around it.
INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
UNKNOWN_LICENSE = "unknown"  # the Hub's own word for it
TITLE = {"classifier": "Text classifier", "language_model": "Language model"}
USE = {
    "classifier": 'model.predict(["a text"])[0].label',
    "language_model": 'model.next_tokens("the", n=5)',
}
CLASS = {"classifier": "TextClassifier", "language_model": "LanguageModel"}
MOST_LABELS = 50  # listed in a card


@dataclass(frozen=True)
class Card:
    """Facts for a model card; what is left empty is not in it, and a licence is "unknown".

    Attributes:
        name: of the model.
        license: the Hub's name of a licence, such as "apache-2.0"; of the weights, not of this
            library.
        language: code such as "en", or several.
        datasets: names of data sets on the Hub that it was trained on.
        data: a sentence about the texts.
        base_model: name on the Hub of the model it was made from.
        metrics: name -> value, measured on metrics_on.
        metrics_on: what the metrics were measured on.
    """

    name: str = ""
    license: str = UNKNOWN_LICENSE
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    data: str = ""
    base_model: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    metrics_on: str = ""

    def with_facts(self, **facts: Any) -> Card:
        """Return a copy with some facts replaced; one string may stand for a list of one.

        Raises:
            InputError: no such fact, or a value of another type.
        """
        names = [entry.name for entry in fields(self)]
        for name, value in facts.items():
            if name not in names:
                raise InputError(
                    f"a model card has no {name!r:.60}: choose among {', '.join(names)}"
                )
            facts[name] = _value(name, value)
        return replace(self, **facts)

    def with_evaluation(self, result: Evaluation, metrics_on: str) -> Card:
        """Return a copy with accuracy and the classes' mean F1 of a result."""
        return self.with_facts(metrics=metrics_of(asdict(result)), metrics_on=metrics_on)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values = asdict(self)
        return {**values, "language": list(self.language), "datasets": list(self.datasets)}


def _value(name: str, value: Any) -> Any:
    """Return a fact in its type."""
    if name in ("language", "datasets"):
        entries = (value,) if isinstance(value, str) else value
        if isinstance(entries, Sequence) and all(isinstance(entry, str) for entry in entries):
            return tuple(entries)
    elif name == "metrics":
        if isinstance(value, Mapping) and all(
            isinstance(key, str) and isinstance(number, int | float)
            for key, number in value.items()
        ):
            return {key: float(number) for key, number in value.items()}
    elif isinstance(value, str):
        return value
    raise InputError(f"model card: {name} is {value!r:.60}, which is of the wrong type")


def card_of_values(values: Any, where: str) -> Card:
    """Return the card that to_dict() made these values of.

    Raises:
        InputError: they are not of a card.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: config.json has an unusable card")
    return Card().with_facts(**values)


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return accuracy and mean F1 of an evaluation's values, as run.json has them."""
    scores = [values["f1"] for values in evaluation["per_class"].values()]
    return {"accuracy": evaluation["accuracy"], "f1": sum(scores) / len(scores)}


def card_of_run(summary: Mapping[str, Any], kind: str) -> Card:
    """Return what run.json knows; of files only the names, as folders are nobody's business.

    Raises:
        InputError: it is not as `ulmfit-fast train` writes it.
    """
    if not summary:
        return Card()
    try:
        source = Path(summary["source"]).name
        name, data = Path(summary["out"]).name, f"Trained on {source}."
        datasets = hub_names(summary["source"])
        if kind != "classifier":
            lm = lm_metrics(summary["stages"])
            on = "validation part" if lm else ""
            return Card(name=name, data=data, datasets=datasets, metrics=lm, metrics_on=on)
        rows = summary["data"]
        data = (
            f"Trained on {source}: {rows['n_train']:,} labelled texts"
            f" and {rows['n_unlabelled']:,} without a label."
        )
        card = Card(name=name, data=data, datasets=datasets)
        part, what = ("test", "test file") if "test" in summary else ("valid", "validation part")
        on = f"{what}, {summary[part]['n']:,} texts"
        return replace(card, metrics=metrics_of(summary[part]), metrics_on=on)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"run.json cannot be used ({error!r:.80}): remove it") from error


def hub_names(source: str) -> tuple[str, ...]:
    """Return the name of a data set on the Hub, of "hf:owner/name:split"; none of a file."""
    scheme, _, rest = source.partition(":")
    return (rest.partition(":")[0],) if scheme == "hf" else ()


def lm_metrics(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what was measured after the last stage of the language model."""
    best = [stage["best"] for stage in stages if stage["stage"] != "classifier"][-1:]
    names = ("perplexity", "accuracy")
    return {name: float(found[name]) for found in best for name in names if name in found}


def body(card: Card, kind: str, labels: Sequence[str], size: str) -> str:
    """Return the card's text, below its metadata."""
    lines = [f"# {plain(card.name) or TITLE[kind]}", ""]
    lines += [f"{TITLE[kind]} made with ULMFiT (Howard & Ruder 2018) by `ulmfit_fast`.", ""]
    lines += ["## Use", "", "```python"]
    lines += [f"from ulmfit_fast.interop.hub import {CLASS[kind]}", ""]
    lines += [f'model = {CLASS[kind]}.from_pretrained("this folder or owner/name")', USE[kind]]
    lines += ["```", ""]
    if labels:
        shown = ", ".join(plain(label) for label in labels[:MOST_LABELS])
        more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        lines += ["## Classes", "", f"{len(labels)}: {shown}{more}", ""]
    lines += ["## Data", "", plain(card.data) or "Not stated.", ""]
    if card.datasets:
        lines[-1:] = [f"Data sets: {', '.join(map(plain, card.datasets))}", ""]
    lines += ["## Results", ""]
    if card.metrics:
        lines += [f"On {plain(card.metrics_on) or 'texts that are not stated'}:", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {plain(name)} | {value:.4f} |" for name, value in card.metrics.items()]
        if "f1" in card.metrics:
            lines += ["", "f1 is the mean of the classes' F1."]
    else:
        lines += ["Not measured."]
    lines += ["", "## Licence", "", licence(card), "", "## Model", "", f"Size: {size}.", ""]
    return "\n".join(lines)


def licence(card: Card) -> str:
    """Return the sentence about the licence."""
    if card.license == UNKNOWN_LICENSE:
        return (
            "Not stated by who trained it. The texts it was trained on may have terms of their own."
        )
    return f"{plain(card.license)}. The texts it was trained on may have terms of their own."


def plain(text: str) -> str:
    """Return text in one line that Markdown shows as it is, and that turns nothing around it."""
    visible = INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], " ".join(text.split()))
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", visible)
