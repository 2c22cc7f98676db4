"""Models between our objects and model folders, for other libraries: checked before they are built.

What a folder says is compared with its tensors first, on torch's meta device, so that a file of
another model, or one made to harm, costs one line and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.checkpoint import load_model, read_json
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.progress import Observer
from ulmfit_fast.training.sizes import model_size
from ulmfit_fast.training.trainer import ULMFiTTrainer

Model = LanguageModel | TextClassifier
#: Nothing here is near it; sizes beyond would overflow on their way to an error.
LARGEST_SIZE = 10_000_000
#: The folder of each kind in the folder of a run.
FOLDER_OF = {"classifier": "model", "language_model": "language_model"}


@dataclass(frozen=True)
class Companions:
    """What a model needs beside its weights; never changed, so copies share it.

    Attributes:
        tokenizer: of its vocabulary.
        labels: names of the classes, in the order of the outputs; empty for a language model.
        settings: what it was trained with.
        size: name of its size.
        text_columns: of the table it was trained on.
        extra: further entries of config.json, JSON values.
    """

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    settings: TrainConfig
    size: str
    text_columns: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Companions:
        """Return itself."""
        return self


def kind_of(model: Model) -> str:
    """Return the kind of a model as config.json has it."""
    return "classifier" if isinstance(model, TextClassifier) else "language_model"


def companions_of(trainer: ULMFiTTrainer, kind: str) -> Companions:
    """Return what stands beside a trainer's model.

    Raises:
        InputError: it has no model of that kind.
    """
    model = trainer.classifier if kind == "classifier" else trainer.language_model
    if model is None or trainer.tokenizer is None:
        raise InputError(f"the trainer has no {kind}: train one first")
    labels = tuple(trainer.labels) if kind == "classifier" else ()
    return Companions(
        trainer.tokenizer, labels, trainer.config, trainer.size, tuple(trainer.text_columns)
    )


def header_of(model: Model, companions: Companions) -> dict[str, Any]:
    """Return config.json's entries, as `ULMFiTTrainer.save` writes them, and the extra ones."""
    return {
        **companions.extra,
        "kind": kind_of(model),
        "size": companions.size,
        "model": asdict(model.config),
        "train": companions.settings.to_dict(),
        "labels": list(companions.labels),
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
    for folder in (path, path.resolve().parent):
        if (folder / "run.json").is_file():
            return read_json(folder / "run.json")
    return {}


def checked(
    header: Mapping[str, Any], tokenizer: Tokenizer, where: str
) -> tuple[AWDLSTMConfig, Companions]:
    """Return the sizes and companions that a header holds.

    Raises:
        InputError: a value is missing, unknown, of another type, or does not fit the tokenizer.
    """
    try:
        config = AWDLSTMConfig.from_dict(header["model"])
        settings = TrainConfig.from_dict(header["train"])
        labels, size = header["labels"], header["size"]
        text_columns = header.get("text_columns", [])
        model_size(size)
    except KeyError as error:
        raise InputError(f"{where}: config.json has no {error}; the file is damaged") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{where}: config.json cannot be used: {one_line(error)}") from error
    for name in ("vocab_size", "embed_size", "hidden_size", "n_layers"):
        value = getattr(config, name)
        if type(value) is not int or not 0 < value <= LARGEST_SIZE:
            raise InputError(
                f"{where}: config.json has {name} {value!r:.40}; expected a whole number from 1 to "
                f"{LARGEST_SIZE:,}"
            )
    for name, names in (("labels", labels), ("text_columns", text_columns)):
        if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
            raise InputError(f"{where}: config.json has no list of names as {name}")
    if len(set(labels)) != len(labels):
        raise InputError(f"{where}: config.json has the same label twice")
    if (len(labels) < 2) if header.get("kind") == "classifier" else bool(labels):
        raise InputError(
            f"{where}: config.json has {len(labels)} labels for a {header.get('kind')}"
        )
    if len(tokenizer.vocab) != config.vocab_size:
        raise InputError(
            f"{where}: the tokenizer has {len(tokenizer.vocab)} tokens and the model "
            f"{config.vocab_size}; they are of different models"
        )
    known = {"format", "format_version", "kind", "size", "model", "train", "labels", "text_columns"}
    extra = {name: value for name, value in header.items() if name not in known}
    companions = Companions(tokenizer, tuple(labels), settings, size, tuple(text_columns), extra)
    return config, companions


def check_tensors(
    config: AWDLSTMConfig, companions: Companions, tensors: Mapping[str, Tensor], where: str
) -> None:
    """Compare a model's tensors with those that its sizes ask for.

    Raises:
        InputError: one is missing, too many, of another shape or another dtype.
    """
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.rnns.")}
    if len(layers) != config.n_layers:
        raise InputError(
            f"{where}: model.safetensors has {len(layers)} LSTM layers and config.json "
            f"{config.n_layers}; they are of different models"
        )
    try:
        with torch.device("meta"):
            expected = build(config, companions).state_dict()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: config.json cannot be used: {one_line(error)}") from error
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "no" if name in expected else "an unknown"
        raise InputError(f"{where}: model.safetensors has {what} tensor {name!r}")
    for name, wanted in expected.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise InputError(
                f"{where}: tensor {name!r} is {list(found.shape)} {found.dtype}, expected "
                f"{list(wanted.shape)} {wanted.dtype}; weights and config.json do not fit"
            )


def build(config: AWDLSTMConfig, companions: Companions) -> Model:
    """Make the model that companions are of, with random weights: a classifier if it has labels."""
    if not companions.labels:
        return LanguageModel(config)
    settings = companions.settings
    return TextClassifier(config, len(companions.labels), settings.bptt, settings.max_len)


def restore(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], tokenizer: Tokenizer, where: str
) -> tuple[Model, Companions]:
    """Return the model that was read and what stands beside it; torch's generator is left alone.

    Raises:
        InputError: header, tokenizer and tensors do not fit together.
    """
    config, companions = checked(header, tokenizer, where)
    check_tensors(config, companions, tensors, where)
    with torch.random.fork_rng(devices=[]):
        model = build(config, companions)
    model.load_state_dict(tensors)
    return model, companions


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
