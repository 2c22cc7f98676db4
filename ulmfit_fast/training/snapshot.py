"""A training at one moment, in a directory: whole or not there, and every bit of it checked.

    tensors.safetensors  weights, moments, best weights, LSTM state, generators
    state.json           format, version, and everything that is no tensor
    tokenizer.json       vocabulary and rules
    manifest.json        SHA-256 of the other files

No file can run code. What is read was hashed before it is interpreted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.files import LARGEST_JSON, parse_object, read_regular
from ulmfit_fast.text.tokenizer import Tokenizer, parse_tokenizer
from ulmfit_fast.training.checkpoint import new_directory
from ulmfit_fast.training.tensor_file import parse_tensors

FORMAT = "ulmfit_fast.snapshot"
FORMAT_VERSION = 1
FILES = ("tensors.safetensors", "state.json", "tokenizer.json")
#: What every state.json has, beside what the stage adds: types, or what an entry has in turn.
_STAGE = {"stage": str, "fingerprint": dict}
FRAME: dict[str, Any] = {
    "index": int, "stage": str, "entry": _STAGE, "history": [{**_STAGE, "result": dict}],
    "trainer": {
        "config": dict, "size": str, "tokenizer_kind": str, "device": str, "cuda_graphs": bool,
    },
    "model": dict, "train": dict, "run_seconds": float, "logs": dict,
}  # fmt: skip


class DamagedSnapshotError(InputError):
    """A snapshot that is not what was written."""


@dataclass(frozen=True)
class Snapshot:
    """A training at one moment.

    Attributes:
        values: JSON values.
        tensors: on the CPU when they were read.
        tokenizer: of the model.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot to a place where nothing stands.

    Raises:
        OSError: the disk refuses; nothing is left at path then.
    """
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, **snapshot.values}
    contents = {
        "tensors.safetensors": save({n: t.contiguous() for n, t in snapshot.tensors.items()}),
        "state.json": (json.dumps(header, indent=1, allow_nan=False) + "\n").encode(),
    }
    with new_directory(path) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        snapshot.tokenizer.save(folder / "tokenizer.json")
        # Of what was meant to be written, as far as it is at hand: not of what the disk made of it.
        contents["tokenizer.json"] = (folder / "tokenizer.json").read_bytes()
        (folder / "manifest.json").write_bytes(manifest_of(contents))


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot and check every byte of it.

    Raises:
        DamagedSnapshotError: a file is missing, or is not what was written.
        InputError: another version wrote it.
    """
    contents = _checked(path)
    tensors, state, vocabulary = (contents.pop(name) for name in FILES)
    try:
        values = parse_object(state, path / "state.json")
    except InputError as error:
        raise DamagedSnapshotError(str(error)) from error
    if values.get("format") != FORMAT:
        raise DamagedSnapshotError(f"{path}: not a snapshot of a training")
    if values.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {values.get('format_version')!r}, but this ulmfit_fast reads "
            f"version {FORMAT_VERSION}; go on with the version that wrote it"
        )
    odd = _first_odd(values, FRAME)
    if odd is not None:
        raise DamagedSnapshotError(f"{path / 'state.json'}: {odd} is missing or of another type")
    try:
        loaded = parse_tensors(tensors, path / FILES[0])
        tokenizer = parse_tokenizer(vocabulary, path / "tokenizer.json")
    except InputError as error:
        raise DamagedSnapshotError(str(error)) from error
    del tensors
    for name in loaded:
        # Cloned: views of one buffer may begin anywhere, and sums depend on where memory begins.
        loaded[name] = loaded[name].clone()
    return Snapshot(values, loaded, tokenizer)


def _first_odd(values: Any, kind: Any, name: str = "") -> str | None:
    """Return the name of the first value that is not of its kind; None where all are."""
    if isinstance(kind, dict):
        if not isinstance(values, dict):
            return name or "all"
        entries = [(values.get(key), part, f"{name} {key}".strip()) for key, part in kind.items()]
    elif isinstance(kind, list):
        if not isinstance(values, list):
            return name
        entries = [(value, kind[0], f"{name} {k}") for k, value in enumerate(values)]
    else:
        fits = type(values) in ((int, float) if kind is float else (kind,))
        return None if fits else name
    return next(filter(None, (_first_odd(*entry) for entry in entries)), None)


def why_refused(error: Exception) -> str:
    """Return why disk or memory refuse a checkpoint; an error that is none of these is raised.

    torch says by RuntimeError that the host has no memory for what comes from a GPU.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "no memory left for it"
    raise error


def manifest_of(contents: dict[str, bytes]) -> bytes:
    """Return the content of manifest.json for those of the other files."""
    hashes = {name: hashlib.sha256(contents[name]).hexdigest() for name in FILES}
    return (json.dumps(hashes, indent=1) + "\n").encode()


def _checked(path: Path) -> dict[str, bytes]:
    """Return the content of the files, after a look at their hashes."""
    try:
        manifest = read_regular(path / "manifest.json", LARGEST_JSON)
        contents = {
            name: read_regular(path / name, LARGEST_JSON if name == "tokenizer.json" else None)
            for name in FILES
        }
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedSnapshotError(f"{error.filename}: missing") from error
    except InputError as error:
        raise DamagedSnapshotError(str(error)) from error
    if manifest != manifest_of(contents):
        raise DamagedSnapshotError(
            f"{path}: damaged (a file's SHA-256 is not the one in manifest.json)"
        )
    return contents


def generators(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the generators that training draws from; uint8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Set generators back; one of a device that is not trained on is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
