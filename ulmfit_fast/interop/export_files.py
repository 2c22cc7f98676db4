"""What an exported file says of itself, and how it comes to its place.

    NAME.onnx or NAME.pt2   the graph, its weights, and a JSON text under the key "ulmfit_fast"
    NAME.tokenizer.json     the tokenizer, for load_tokenizer

Both are written and checked under temporary names beside their place.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmfit_fast import __version__
from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.exportable import layers_of
from ulmfit_fast.model import LanguageModel, TextClassifier
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.checkpoint import flush_to_disk
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: Key of the JSON text in the metadata of a file.
KEY = "ulmfit_fast"
FORMAT, FORMAT_VERSION = "ulmfit_fast.export", 1
Model = TextClassifier | LanguageModel


@dataclass(frozen=True)
class Exported:
    """A model to be exported, on the CPU, in eval(), without gradients.

    Attributes:
        model: a copy.
        tokenizer: None where a bare model is exported.
        labels: names of the classes; empty for a language model or a bare model.
        text_columns: names of the columns that the texts came from.
    """

    model: Model
    tokenizer: Tokenizer | None = None
    labels: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Say "classifier" or "language_model"."""
        return "classifier" if isinstance(self.model, TextClassifier) else "language_model"

    def description(self, path: Path, **more: Any) -> dict[str, Any]:
        """Return what is written into the file; JSON values."""
        model, config = self.model, self.model.config
        values: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "ulmfit_fast": __version__,
            "kind": self.kind,
            "vocab_size": config.vocab_size,
            "pad_id": config.pad_id,
            "hidden_sizes": [rnn.hidden_size for rnn in layers_of(model.encoder)],
            "labels": list(self.labels),
            "text_columns": list(self.text_columns),
            **more,
        }
        if isinstance(model, TextClassifier):
            values |= {"bptt": model.bptt, "max_len": model.max_len}
        if self.tokenizer is not None:
            values["tokenizer"] = tokenizer_file(path).name
            values["tokenizer_fingerprint"] = self.tokenizer.fingerprint()
        return values


def to_export(source: ULMFiTTrainer | Model, kind: str | None = None) -> Exported:
    """Return a copy of what shall be exported.

    Args:
        source: a trainer, or a model of ours.
        kind: of a trainer, "classifier" or "language_model"; None takes the classifier where there
            is one.

    Raises:
        InputError: the trainer has no such model.
    """
    if isinstance(source, TextClassifier | LanguageModel):
        return Exported(_still(source))
    kind = kind or ("language_model" if source.classifier is None else "classifier")
    if kind not in ("classifier", "language_model"):
        raise InputError(f"no kind of model {kind!r}: give classifier or language_model")
    model = source.classifier if kind == "classifier" else source.language_model
    if model is None:
        raise InputError(f"no {kind} to export: train or load one first")
    labels = tuple(source.labels) if kind == "classifier" else ()
    return Exported(_still(model), source.tokenizer, labels, source.text_columns)


def _still(model: Model) -> Model:
    """Return a float32 copy on the CPU, in eval(), without gradients."""
    return copy.deepcopy(model).cpu().float().eval().requires_grad_(False)


def tokenizer_file(path: Path) -> Path:
    """Return where the tokenizer of an exported file stands: NAME.tokenizer.json beside it."""
    return path.with_name(f"{path.stem}.tokenizer.json")


def check_place(path: Path, suffix: str, *, overwrite: bool) -> None:
    """Raise InputError unless a file of this kind, and its tokenizer, can be written there."""
    folder = path.parent
    if path.suffix != suffix or path.stem == suffix:
        raise InputError(f"{path}: give the name of a file that ends in {suffix}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{path}: {folder} is a file, not a folder; give another place")
    if not folder.exists():
        raise InputError(f"{path}: there is no folder {folder}; make it first")
    for file in (path, tokenizer_file(path)):
        if file.is_dir():
            raise InputError(f"{file}: a folder has this name; give another place")
        if file.exists() and not overwrite:
            hint = "give another name, or replace it with --overwrite (overwrite=True)"
            raise InputError(f"{file}: this file exists; {hint}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the folder {folder} cannot be written; give another place")


@contextmanager
def new_files(path: Path, tokenizer: Tokenizer | None) -> Iterator[Path]:
    """Write a file and its tokenizer under temporary names, then put both in their places.

    Yields:
        file: to be written and checked. If the block fails, what stood at path is as it was.
    """
    folder = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    try:
        part = folder / path.name
        yield part
        parts = [part]
        if tokenizer is not None:
            tokenizer.save(tokenizer_file(part))
            parts.insert(0, tokenizer_file(part))
        for file in parts:
            flush_to_disk(file)
        for file in parts:
            os.replace(file, path.with_name(file.name))
        flush_to_disk(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_description(text: str | None, path: Path) -> dict[str, Any]:
    """Return the JSON values that `Exported.description` wrote.

    Raises:
        InputError: there are none, or those of another version.
    """
    try:
        values = json.loads(text or "")
    except ValueError:
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: not a file that ulmfit-fast exported; export the model again")
    if values.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: export format {values.get('format_version')!r}, this release reads "
            f"{FORMAT_VERSION}; export the model again"
        )
    return values
