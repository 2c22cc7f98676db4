"""A model's description in config.json, and the model made from it again.

What a description says is compared with the tensors first, on torch's meta device, so that a file
of another model, or one made to harm, costs one line and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import HEAD_SIZE, AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.sizes import SIZES

Model = LanguageModel | TextClassifier
#: Nothing here is near it; sizes beyond would overflow on their way to an error.
LARGEST_SIZE = 10_000_000


@dataclass(frozen=True)
class Described:
    """What a model is made of, checked.

    Attributes:
        config: sizes and dropouts of the encoder.
        labels: names of a classifier's classes; empty for a language model.
        head_size: hidden units of a classifier's head.
    """

    config: AWDLSTMConfig
    labels: tuple[str, ...]
    head_size: int


@dataclass(frozen=True)
class Header:
    """Everything that config.json has, checked.

    Attributes:
        model: what the model is made of.
        settings: what it was trained with.
        size: name of its size.
        text_columns: of the table it was trained on.
    """

    model: Described
    settings: TrainConfig
    size: str
    text_columns: tuple[str, ...]


def describe_model(model: Model, labels: list[str]) -> dict[str, Any]:
    """Return the kind, sizes and classes of a model, for JSON."""
    is_classifier = isinstance(model, TextClassifier)
    return {
        "kind": "classifier" if is_classifier else "language_model",
        "model": asdict(model.config),
        "labels": labels if is_classifier else [],
        "head_size": model.hidden_size if isinstance(model, TextClassifier) else None,
    }


def described(values: Any, tokenizer: Tokenizer, where: str) -> Described:
    """Return what describe_model wrote; descriptions of before 0.1.0 have no head_size.

    Raises:
        InputError: a value is missing, of another type, or does not fit the tokenizer.
    """
    entries = {name: _entry(values, name, where) for name in ("kind", "model", "labels")}
    kind, labels = entries["kind"], _names(entries["labels"], "labels", where)
    if kind not in ("classifier", "language_model"):
        raise InputError(
            f"{where} describes a {kind!r:.40}; expected a classifier or a language_model"
        )
    if len(set(labels)) != len(labels):
        raise InputError(f"{where} has the same label twice")
    if (len(labels) < 2) if kind == "classifier" else bool(labels):
        raise InputError(f"{where} has {len(labels)} labels for a {kind}")
    try:
        config = AWDLSTMConfig.from_dict(entries["model"])
    except InputError as error:
        raise InputError(f"{where} cannot be used: {error}") from error
    head_size = values.get("head_size") or HEAD_SIZE
    sizes = {n: getattr(config, n) for n in ("vocab_size", "embed_size", "hidden_size", "n_layers")}
    for name, value in {**sizes, "head_size": head_size}.items():
        if type(value) is not int or not 0 < value <= LARGEST_SIZE:
            raise InputError(
                f"{where} has {name} {value!r:.40}; expected a whole number from 1 to "
                f"{LARGEST_SIZE:,}"
            )
    if not 0 <= config.pad_id < config.vocab_size:
        raise InputError(f"{where} has pad_id {config.pad_id}; expected a token's id")
    if len(tokenizer.vocab) != config.vocab_size:
        raise InputError(
            f"{where} does not fit: the tokenizer has {len(tokenizer.vocab)} tokens and the model "
            f"{config.vocab_size}; they are of different models"
        )
    return Described(config, labels, head_size)


def checked_header(values: Any, tokenizer: Tokenizer, where: str) -> Header:
    """Return what config.json holds.

    Args:
        values: of the file.
        tokenizer: that stands beside it.
        where: its name, for messages.

    Raises:
        InputError: a value is missing, unknown, of another type, or does not fit the tokenizer.
    """
    model = described(values, tokenizer, where)
    size = _entry(values, "size", where)
    if not isinstance(size, str) or size not in SIZES:
        known = ", ".join(SIZES)
        raise InputError(f"{where} cannot be used: no size {size!r:.40}; choose one of {known}")
    columns = _names(values.get("text_columns", []), "text_columns", where)
    return Header(model, settings_in(values, where), size, columns)


def settings_in(values: Any, where: str) -> TrainConfig:
    """Return the settings that a header has as "train".

    Raises:
        InputError: there are none, or none that a training can use.
    """
    try:
        return TrainConfig.from_dict(_entry(values, "train", where))
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where} cannot be used: {error}") from error


def check_tensors(
    model: Described, settings: TrainConfig, tensors: Mapping[str, Tensor], where: str
) -> None:
    """Compare a model's tensors with those that its sizes ask for.

    Raises:
        InputError: one is missing, too many, of another shape or another dtype.
    """
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.rnns.")}
    differ = f"{where} and its tensors do not fit"
    if len(layers) != model.config.n_layers:
        raise InputError(f"{differ}: {len(layers)} LSTM layers, expected {model.config.n_layers}")
    try:
        with torch.device("meta"):
            expected = build(model, settings).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{where} cannot be used: {error}") from error
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "no" if name in expected else "an unknown"
        raise InputError(f"{differ}: {what} tensor {name!r}")
    for name, wanted in expected.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            shapes = f"{list(found.shape)} {found.dtype}, expected {list(wanted.shape)}"
            raise InputError(f"{differ}: tensor {name!r} is {shapes} {wanted.dtype}")


def build(model: Described, settings: TrainConfig) -> Model:
    """Make a model with random weights: a classifier if it has labels."""
    if not model.labels:
        return LanguageModel(model.config)
    return TextClassifier(
        model.config, len(model.labels), settings.bptt, settings.max_len, model.head_size
    )


def restore_model(
    model: Described, settings: TrainConfig, tensors: Mapping[str, Tensor], where: str
) -> Model:
    """Return a model with its tensors.

    Args:
        model: what it is made of.
        settings: chunks of a classifier.
        tensors: state dict.
        where: name of the file of all, for messages.

    Raises:
        InputError: the tensors are not those of such a model.
    """
    check_tensors(model, settings, tensors, where)
    made = build(model, settings)
    made.load_state_dict(tensors)
    return made


def settings_of(model: Model, config: TrainConfig) -> TrainConfig:
    """Return settings with the chunks of a classifier, which a loaded one keeps under others."""
    if isinstance(model, TextClassifier):
        return replace(config, bptt=model.bptt, max_len=model.max_len)
    return config


def _entry(values: Any, name: str, where: str) -> Any:
    if not isinstance(values, dict) or name not in values:
        raise InputError(f"{where} has no {name!r}; the file is damaged")
    return values[name]


def _names(values: Any, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(entry, str) for entry in values):
        raise InputError(f"{where} has no list of names as {name}")
    return tuple(values)
