"""Models between our objects and model folders, for other libraries: checked before they are built.

What a folder says is compared with its tensors first, on torch's meta device, so that a file of
another model, or one made to harm, costs one line and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import HEAD_SIZE, AWDLSTMConfig, TextClassifier
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.checkpoint import load_model, read_json
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.observer import Observer
from ulmfit_fast.training.restore import (
    Described,
    Model,
    checked_header,
    describe_model,
    restore_model,
    settings_of,
)
from ulmfit_fast.training.restore import check_tensors as check_model_tensors
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: The folder of each kind in the folder of a run.
FOLDER_OF = {"classifier": "model", "language_model": "language_model"}
#: Entries of config.json that are ours; others are kept as they are.
KNOWN = {"format", "format_version", "kind", "size", "model", "train", "labels", "head_size"}
KNOWN |= {"text_columns", "packing", "unpacked_bytes"}


@dataclass(frozen=True)
class Companions:
    """What a model needs beside its weights; never changed, so copies share it.

    Attributes:
        tokenizer: of its vocabulary.
        labels: names of the classes, in the order of the outputs; empty for a language model.
        settings: what it was trained with.
        size: name of its size.
        text_columns: of the table it was trained on.
        head_size: units of the hidden layer in a classifier's head.
        extra: further entries of config.json, JSON values.
    """

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    settings: TrainConfig
    size: str
    text_columns: tuple[str, ...] = ()
    head_size: int = HEAD_SIZE
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Companions:
        """Return itself."""
        return self


def companions_of(trainer: ULMFiTTrainer, kind: str) -> Companions:
    """Return what stands beside a trainer's model.

    Raises:
        InputError: it has no model of that kind.
    """
    model = trainer.classifier if kind == "classifier" else trainer.language_model
    if model is None or trainer.tokenizer is None:
        raise InputError(f"the trainer has no {kind}: train one first")
    labels = tuple(trainer.labels) if kind == "classifier" else ()
    settings = settings_of(model, trainer.config)
    size = model.hidden_size if isinstance(model, TextClassifier) else HEAD_SIZE
    columns = tuple(trainer.text_columns)
    return Companions(trainer.tokenizer, labels, settings, trainer.size, columns, size)


def header_of(model: Model, companions: Companions) -> dict[str, Any]:
    """Return config.json's entries, as `ULMFiTTrainer.save` writes them, and the extra ones."""
    return {
        **companions.extra,
        **describe_model(model, list(companions.labels)),
        "size": companions.size,
        "train": companions.settings.to_dict(),
        "text_columns": list(companions.text_columns),
    }


def read_folder(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """Read a model of a kind from its folder, or from the folder of the run that made it.

    Returns:
        tensors: on the CPU.
        header: config.json.
        tokenizer: ready to use.

    Raises:
        InputError: no such model is there, or it is damaged.
    """
    inner = path / FOLDER_OF[kind]
    folder = inner if not (path / "config.json").exists() and inner.is_dir() else path
    tensors, header, tokenizer = load_model(folder)
    if header.get("kind") != kind:
        found = str(header.get("kind")).replace("_", " ")
        raise InputError(f"{folder}: holds a {found}, not a {kind.replace('_', ' ')}")
    return tensors, header, tokenizer


def run_summary(path: Path) -> dict[str, Any]:
    """Return run.json of the run that a folder is, or is in; empty where there is none."""
    path = path.resolve()
    folder = path.parent if path.name in FOLDER_OF.values() else path
    return read_json(folder / "run.json") if (folder / "run.json").is_file() else {}


def checked(
    header: Mapping[str, Any], tokenizer: Tokenizer, where: str
) -> tuple[AWDLSTMConfig, Companions]:
    """Return the sizes and companions that a header holds.

    Raises:
        InputError: a value is missing, unknown, of another type, or does not fit the tokenizer.
    """
    checked = checked_header(header, tokenizer, f"{where}: config.json")
    model = checked.model
    extra = {name: value for name, value in header.items() if name not in KNOWN}
    companions = Companions(
        tokenizer, model.labels, checked.settings, checked.size, checked.text_columns,
        model.head_size, extra,
    )  # fmt: skip
    return model.config, companions


def check_tensors(
    config: AWDLSTMConfig, companions: Companions, tensors: Mapping[str, Tensor], where: str
) -> None:
    """Compare a model's tensors with those that its sizes ask for.

    Raises:
        InputError: one is missing, too many, of another shape or another dtype.
    """
    model = Described(config, companions.labels, companions.head_size)
    check_model_tensors(model, companions.settings, tensors, f"{where}: config.json")


def restore(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], tokenizer: Tokenizer, where: str
) -> tuple[Model, Companions]:
    """Return the model that was read and what stands beside it; torch's generator is left alone.

    Raises:
        InputError: header, tokenizer and tensors do not fit together.
    """
    config, companions = checked(header, tokenizer, where)
    model = Described(config, companions.labels, companions.head_size)
    with torch.random.fork_rng(devices=[]):
        restored = restore_model(model, companions.settings, tensors, f"{where}: config.json")
    return restored, companions


def trainer_of(
    model: Model,
    companions: Companions,
    *,
    device: str | None = None,
    observers: Sequence[Observer] = (),
) -> ULMFiTTrainer:
    """Return a trainer that has the model itself, moved to the device.

    Raises:
        InputError: no such device, or one without the precision of the settings.
    """
    trainer = ULMFiTTrainer(
        companions.settings, size=companions.size, tokenizer_kind=companions.tokenizer.kind,
        device=device, observers=observers,
    )  # fmt: skip
    trainer.tokenizer, trainer.text_columns = companions.tokenizer, companions.text_columns
    if isinstance(model, TextClassifier):
        trainer.classifier, trainer.labels = model, list(companions.labels)
    else:
        trainer.language_model = model
    model.to(trainer.device).eval()
    return trainer


def one_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
