"""Model directories: safetensors and JSON, written whole or not at all, checked when read.

    model.safetensors  tensors; in a packed model model.safetensors.xz, see packing.py
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
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ulmfit_fast import pretrained
from ulmfit_fast.errors import InputError
from ulmfit_fast.files import LARGEST_JSON, parse_object, read_regular
from ulmfit_fast.text.tokenizer import Tokenizer, parse_tokenizer
from ulmfit_fast.training.packing import check_packing, pack, unpack
from ulmfit_fast.training.tensor_file import parse_tensors

FORMAT = "ulmfit_fast"
FORMAT_VERSION = 1
PACKED_VERSION = 2  # of folders with packed weights, which earlier releases refuse by it
WEIGHTS, PACKED_WEIGHTS = "model.safetensors", "model.safetensors.xz"
FILES = (WEIGHTS, "config.json", "tokenizer.json")
PACKED_FILES = (PACKED_WEIGHTS, *FILES[1:])
#: Entries of config.json that are of the folder, not of the model.
OWN_ENTRIES = ("format", "format_version", "packing", "unpacked_bytes")


def save_model(
    path: Path,
    tensors: dict[str, Tensor],
    config: dict[str, Any],
    tokenizer: Tokenizer,
    *,
    overwrite: bool = False,
    packing: str | None = None,
) -> None:
    """Write a model directory; a model of the same kind that stands there is replaced.

    Args:
        path: the directory.
        tensors: state dict without shared tensors.
        config: JSON values; format, version and packing are set.
        tokenizer: saved beside the weights.
        overwrite: whether a model of another kind may stand there.
        packing: "int8" or "bf16" rounds the weights to a smaller file; None keeps every bit.

    Raises:
        InputError: something else than a model of this kind stands at path, or no such packing, or
            weights that cannot be packed.
        OSError: the disk refuses; what stood at path before is still there.
    """
    path = path.resolve()
    check_replaceable(path, None if overwrite else config.get("kind"))
    files, version = FILES, FORMAT_VERSION
    described = {name: value for name, value in config.items() if name not in OWN_ENTRIES}
    if packing is None:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = save(contiguous)
    else:
        files, version = PACKED_FILES, PACKED_VERSION
        content, n_bytes = pack(tensors, packing)
        described |= {"packing": packing, "unpacked_bytes": n_bytes}
    header = {"format": FORMAT, "format_version": version, **described}
    with new_directory(path) as folder:
        (folder / files[0]).write_bytes(content)
        (folder / "config.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        tokenizer.save(folder / "tokenizer.json")
        manifest = {name: sha256(folder / name) for name in files}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def load_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """Read a model directory and check every byte of it.

    Args:
        path: the directory; where nothing stands, the name of a model of the package.

    Returns:
        tensors: on the CPU; packed ones in float32.
        config: as save_model got it, with format and version.
        tokenizer: ready to use.

    Raises:
        InputError: no such directory, not a model, a file missing or damaged, or another version.
    """
    path = pretrained.folder_of(path)
    if not path.exists():
        raise InputError(f"{path}: no such model directory; {advice(path)}")
    config_file = path / "config.json"
    if not path.is_dir() or not config_file.exists():
        raise InputError(f"{path}: not a model directory (it has no config.json); {advice(path)}")
    config = read_json(config_file)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{config_file}: not a model of ulmfit_fast (format {config.get('format')!r})"
        )
    files = _files_of(config, config_file)
    for name in (*files, "manifest.json"):
        if not (path / name).exists():
            raise InputError(
                f"{path}: {name} is missing, so the model is half written; train again"
            )
    manifest = read_json(path / "manifest.json")
    contents: dict[str, bytes] = {}
    for name in files:
        contents[name] = read_regular(path / name, LARGEST_JSON if name.endswith(".json") else None)
        if manifest.get(name) != hashlib.sha256(contents[name]).hexdigest():
            raise InputError(
                f"{path / name}: damaged (its SHA-256 is not the one in manifest.json); "
                "restore it or train again"
            )
    # What was hashed is what is used: a file may change between two looks.
    config = parse_object(contents["config.json"], config_file)
    if _files_of(config, config_file) != files:
        raise InputError(f"{config_file}: changed while it was read; try again")
    weights, where = contents.pop(files[0]), path / files[0]
    if files == PACKED_FILES:
        tensors = unpack(weights, config["packing"], config["unpacked_bytes"], where)
    else:
        tensors = parse_tensors(weights, where)
    tokenizer = parse_tokenizer(contents["tokenizer.json"], path / "tokenizer.json")
    return tensors, config, tokenizer


def _files_of(config: dict[str, Any], config_file: Path) -> tuple[str, ...]:
    """Return the names of a model's files, by the version of its format.

    Raises:
        InputError: another version, or a packing that is unknown or has no size.
    """
    version = config.get("format_version")
    if version == FORMAT_VERSION:
        return FILES
    if version != PACKED_VERSION:
        raise InputError(
            f"{config_file}: format version {version!r}, but this ulmfit_fast reads versions "
            f"{FORMAT_VERSION} and {PACKED_VERSION}; install the version that wrote it, or train "
            "again"
        )
    try:
        check_packing(config.get("packing"))
    except InputError as error:
        raise InputError(f"{config_file}: {error}; the file is damaged") from error
    if type(config.get("unpacked_bytes")) is not int:
        raise InputError(f"{config_file}: has no unpacked_bytes; the file is damaged")
    return PACKED_FILES


def advice(path: Path) -> str:
    """Say which folder was probably meant."""
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt", ".json", ".jsonl"):
        return "this is a file of texts: give first the model's folder, then the file"
    if path.suffix.lower() in (".pth", ".h5", ".tgz"):
        return f"if it is fastai's, first: ulmfit-fast convert {path} DIR"
    inner = [name for name in ("model", "language_model") if (path / name / "config.json").exists()]
    if not inner:
        near = _nearest_run(path)
        return f"did you mean {near}?" if near else "give a folder that train or pretrain wrote"
    if inner == ["language_model"]:
        what = f"a language model; to classify, train with --base {path}"
        return f"did you mean {path / inner[0]} ({what})?"
    return f"did you mean {path / inner[0]}?"


def _nearest_run(path: Path) -> Path | None:
    """Return a run in a folder, or the one beside it whose name is the most like its own."""
    inside = path.is_dir()
    place = path if inside else path.parent
    runs = [folder for folder in _folders(place) if any(
        (folder / name / "config.json").exists() for name in (".", "model", "language_model")
    )]  # fmt: skip
    if inside:
        return runs[0] if len(runs) == 1 else None
    near = get_close_matches(path.name, [run.name for run in runs], n=1, cutoff=0.5)
    return place / near[0] if near else None


def _folders(place: Path) -> list[Path]:
    """Return the folders in a place, without those that cannot be looked into."""
    if not place.is_dir() or not os.access(place, os.R_OK | os.X_OK):
        return []
    return sorted(p for p in place.iterdir() if p.is_dir() and os.access(p, os.R_OK | os.X_OK))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file holds something else, or cannot be read.
    """
    return parse_object(read_regular(path, LARGEST_JSON), path)


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


def check_replaceable(path: Path, kind: str | None = None) -> None:
    """Raise InputError unless path is free, an empty directory, or a model of this kind.

    Args:
        path: the place.
        kind: "classifier" or "language_model"; None takes a model of any kind.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    config_file = path / "config.json"
    found = read_json(config_file) if config_file.is_file() else {}
    if found.get("format") != FORMAT:
        raise InputError(f"{path}: stands there and is not a model; give another place to save to")
    if kind is not None and found.get("kind") != kind:
        raise InputError(
            f"{path}: a model of another kind stands there ({found.get('kind')}, and this is a "
            f"{kind}); give another place, or overwrite=True"
        )


def flush_to_disk(path: Path) -> None:
    """Flush a file or a directory, so that a rename never comes before its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
