"""Model directories: safetensors and JSON, written whole or not at all, checked when read.

    model.safetensors  tensors
    config.json        format, version, kind and everything needed to rebuild the model
    tokenizer.json     vocabulary and rules
    manifest.json      SHA-256 of the other files, written last

A directory is filled under a temporary name beside its place, flushed to disk and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.text.tokenizer import Tokenizer, load_tokenizer

FORMAT = "ulmfit_fast"
FORMAT_VERSION = 1
FILES = ("model.safetensors", "config.json", "tokenizer.json")


def save_model(
    path: Path, tensors: dict[str, Tensor], config: dict[str, Any], tokenizer: Tokenizer
) -> None:
    """Write a model directory; a model that stands there is replaced.

    Args:
        path: the directory.
        tensors: state dict without shared tensors.
        config: JSON values; format and version are added.
        tokenizer: saved beside the weights.

    Raises:
        InputError: something else than a model stands at path.
        OSError: the disk refuses; what stood at path before is still there.
    """
    path = path.resolve()
    check_replaceable(path)
    with new_directory(path) as folder:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        (folder / "model.safetensors").write_bytes(save(contiguous))
        header = {"format": FORMAT, "format_version": FORMAT_VERSION, **config}
        (folder / "config.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        tokenizer.save(folder / "tokenizer.json")
        manifest = {name: sha256(folder / name) for name in FILES}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def load_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """Read a model directory and check every byte of it.

    Args:
        path: the directory.

    Returns:
        tensors: on the CPU.
        config: as save_model got it, with format and version.
        tokenizer: ready to use.

    Raises:
        InputError: no such directory, not a model, a file missing or damaged, or another version.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such model directory; give a folder that train or pretrain wrote"
        )
    config_file = path / "config.json"
    if not path.is_dir() or not config_file.exists():
        raise InputError(f"{path}: not a model directory (it has no config.json); {advice(path)}")
    config = read_json(config_file)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{config_file}: not a model of ulmfit_fast (format {config.get('format')!r})"
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{config_file}: format version {config.get('format_version')!r}, but this ulmfit_fast "
            f"reads version {FORMAT_VERSION}; install the version that wrote it, or train again"
        )
    for name in (*FILES, "manifest.json"):
        if not (path / name).exists():
            raise InputError(
                f"{path}: {name} is missing, so the model is half written; train again"
            )
    manifest = read_json(path / "manifest.json")
    for name in FILES:
        if manifest.get(name) != sha256(path / name):
            raise InputError(
                f"{path / name}: damaged (its SHA-256 is not the one in manifest.json); "
                "restore it or train again"
            )
    try:
        tensors = load((path / "model.safetensors").read_bytes())
    except SafetensorError as error:
        raise InputError(
            f"{path / 'model.safetensors'}: not readable ({error}); train again"
        ) from error
    return tensors, config, load_tokenizer(path / "tokenizer.json")


def advice(path: Path) -> str:
    """Say which folder was probably meant."""
    if path.suffix.lower() in (".pth", ".h5", ".tgz"):
        return f"if it is fastai's, first: ulmfit-fast convert {path} DIR"
    inner = [name for name in ("model", "language_model") if (path / name / "config.json").exists()]
    if not inner:
        return "give a folder that train or pretrain wrote"
    if inner == ["language_model"]:
        what = f"a language model; to classify, train with --base {path}"
        return f"did you mean {path / inner[0]} ({what})?"
    return f"did you mean {path / inner[0]}?"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); the file is damaged") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Fill a directory under a temporary name, then put it in its place.

    A directory that stands there is first renamed to .NAME.old-..., and removed at the end: after a
    kill between the two renames it is found there, whole.

    Yields:
        folder: empty, beside path. If the block fails it is removed and path is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    folder = path.with_name(f".{path.name}.new-{token}")
    old = path.with_name(f".{path.name}.old-{token}")
    folder.mkdir()
    try:
        yield folder
        for file in [*folder.rglob("*"), folder]:
            flush_to_disk(file)
        if path.exists():
            path.rename(old)
        folder.rename(path)
        flush_to_disk(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for left in (folder, old):
            if left.exists():
                shutil.rmtree(left)


def check_replaceable(path: Path) -> None:
    """Raise InputError unless path is free, an empty directory, or a model of ours."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    config_file = path / "config.json"
    if not config_file.is_file() or read_json(config_file).get("format") != FORMAT:
        raise InputError(f"{path}: stands there and is not a model; give another place to save to")


def flush_to_disk(path: Path) -> None:
    """Flush a file or a directory, so that a rename never comes before its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
