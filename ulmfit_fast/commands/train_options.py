"""Options of `train` and `pretrain`, and their record in a run's folder, by which it can go on."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ulmfit_fast import pretrained
from ulmfit_fast.commands.choices import Settings
from ulmfit_fast.commands.data import Files
from ulmfit_fast.commands.invocation import command_line
from ulmfit_fast.errors import InputError
from ulmfit_fast.text.shards import Shards, is_sharded
from ulmfit_fast.training import launch
from ulmfit_fast.training.checkpoint import flush_to_disk, read_json
from ulmfit_fast.training.joining import DEFAULT_TIMEOUT_S
from ulmfit_fast.training.resume import DEFAULT_EVERY_S

RECORD = "resume.json"
FORMAT = "ulmfit_fast.run"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train` and `pretrain`.

    Attributes:
        files: what to read.
        settings: what the user decided.
        base: folder or name of a language model to start from, or "none"; None leaves it open.
        start: of `pretrain`: the same, or a file or address of fastai's.
        out: folder of the run; None is `runs/<name of the file>`.
        overwrite: whether to replace a finished run.
        cache: folder for numericalized texts; None is the user's cache folder.
        no_cache: whether to keep none.
        report: whether to write report.html at the end.
        log_to: trackers that are told of the training.
        command: that began the run; None: the one of now.
        resume: folder of a run that was stopped, to go on with.
        checkpoint_every_s: seconds between two checkpoints.
        time_limit_s: seconds after which to stop and save; None for no limit.
        rank_timeout_s: seconds after which one of several processes counts as lost.
        began: when the command began, of time.monotonic.
    """

    files: Files
    settings: Settings
    base: Path | None = None
    start: str | None = None
    out: Path | None = None
    overwrite: bool = False
    cache: Path | None = None
    no_cache: bool = False
    report: bool = True
    log_to: tuple[str, ...] = ()
    command: str | None = None
    resume: Path | None = None
    checkpoint_every_s: float = DEFAULT_EVERY_S
    time_limit_s: float | None = None
    rank_timeout_s: float = DEFAULT_TIMEOUT_S
    began: float = field(default_factory=time.monotonic)

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the limit."""
        if self.time_limit_s is None:
            return None
        return self.time_limit_s - (time.monotonic() - self.began)


#: In place of a folder as --base; where a folder of this name stands, it goes first.
NAMES = (pretrained.DEFAULT, "none")
#: What goes on with a run decides anew.
_OF_ONE_PROCESS = (
    "out", "resume", "checkpoint_every_s", "time_limit_s", "rank_timeout_s", "began",
)  # fmt: skip


def how_to_go_on(verb: str, run: Path) -> str:
    """Return the command that goes on with a run, in as many processes as now."""
    here, everywhere = launch.local_world_size(), launch.world_size()
    program = "ulmfit-fast"
    if everywhere > 1:
        options = f"--nproc-per-node {here}" if here == everywhere else "..."
        program = f"torchrun {options} -m ulmfit_fast"
    return f"{program} {verb} --resume {shlex.quote(str(run))}"


def write_record(folder: Path, verb: str, options: TrainOptions, launch_id: str = "") -> None:
    """Write what a run was called with, by which launch, and the hashes of what it reads."""
    values = {name: v for name, v in asdict(options).items() if name not in _OF_ONE_PROCESS}
    values["command"] = command_line()
    texts = _texts_of(options)
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "verb": verb,
        "launch": launch_id,
        "folder": os.getcwd(),
        "options": values,
        "inputs": {name: _hash_of(name, texts) for name in _inputs(options)},
    }
    path, partial = folder / RECORD, folder / f".{RECORD}"
    partial.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    flush_to_disk(partial)
    partial.rename(path)
    flush_to_disk(folder)


def read_record(options: TrainOptions, folder: Path, verb: str) -> TrainOptions:
    """Return the options that a run was begun with, and those of now that are not of the run.

    Args:
        options: of now.
        folder: of the run, unfinished.
        verb: that was called.

    Raises:
        InputError: no record, one of another verb or version, a damaged one, or a file has changed.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{folder}: has no {RECORD}, so it cannot go on; train anew")
    record = read_json(path)
    if record.get("format") != FORMAT or record.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: not of this version of ulmfit_fast; go on with the one it is of")
    try:
        begun_by, began_in = record["verb"], Path(record["folder"])
        begun, inputs = _options_of(record["options"]), dict(record["inputs"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: damaged, or not of this version of ulmfit_fast; go on with the one it is of, "
            "or train anew"
        ) from error
    if begun_by != verb:
        how = how_to_go_on(begun_by, options.resume or folder)
        raise InputError(f"{folder}: begun by {begun_by}; go on with: {how}")
    texts = [_found_from(began_in, name) for name in _texts_of(begun)]
    if began_in != Path.cwd():
        begun = _relative_to(begun, began_in)
    for name, wanted in inputs.items():
        if _hash_of(_found_from(began_in, name), texts) != wanted:
            raise InputError(
                f"{began_in / name}: missing or changed since {folder} was begun (its SHA-256 is "
                "not the one that was noted); restore it, or train anew"
            )
    now = {name: getattr(options, name) for name in _OF_ONE_PROCESS}
    return replace(begun, **now)


def _options_of(values: dict[str, Any]) -> TrainOptions:
    files: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.pop("files").items()
    }
    values["log_to"] = tuple(values.get("log_to", ()))
    for name in ("base", "cache"):
        values[name] = None if values[name] is None else Path(values[name])
    return TrainOptions(Files(**files), Settings(**values.pop("settings")), **values)


def _relative_to(options: TrainOptions, folder: Path) -> TrainOptions:
    """Return options whose files are found from another working folder."""

    def moved(name: str | None) -> str | None:
        return _found_from(folder, name) if name and not name.startswith("hf:") else name

    def moved_path(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    files = options.files
    start, base = options.start, options.base
    if base is not None and ((folder / base).exists() or str(base) not in NAMES):
        base = folder / base
    if start is not None and (folder / start).exists():
        start = moved(start)
    return replace(
        options,
        files=replace(
            files, train=moved(files.train) or "", valid=moved(files.valid),
            test=moved(files.test), general=moved(files.general),
            unlabelled=tuple(moved(name) or "" for name in files.unlabelled),
        ),
        base=base, cache=moved_path(options.cache), start=start,
    )  # fmt: skip


def _texts_of(options: TrainOptions) -> list[str]:
    files = options.files
    names = [files.train, files.valid, files.test, files.general, *files.unlabelled]
    return [name for name in names if name]


def _inputs(options: TrainOptions) -> list[str]:
    """Return the files that a run reads, as far as they are files here."""
    names = [*_texts_of(options), str(options.base or ""), options.start or ""]
    elsewhere = ("hf:", "http:", "https:")
    return list(dict.fromkeys(name for name in names if name and not name.startswith(elsewhere)))


def _found_from(folder: Path, name: str) -> str:
    """Return how a file, a folder or a pattern is named from another working folder."""
    place = folder / name
    if place.exists() or not glob.has_magic(name):
        return str(place)
    return os.path.join(glob.escape(str(folder)), name)


def _hash_of(name: str, texts: Sequence[str]) -> str | None:
    """Return the SHA-256 of a file, of a model's manifest, which has its files', or of shards.

    Args:
        name: of a file or folder, or a pattern.
        texts: names that are not those of models.
    """
    path = Path(name)
    if name in texts and is_sharded(name):
        hashes = [(file.path.name, _hash_of_file(file.path)) for file in Shards(name).files]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    if path.is_dir():
        found = [path, path / "language_model", path / "model"]
        path = next((f / "manifest.json" for f in found if (f / "manifest.json").exists()), path)
    return _hash_of_file(path) if path.is_file() else None


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
