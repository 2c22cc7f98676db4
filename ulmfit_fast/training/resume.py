"""Checkpoints of a training: when they are written, which are kept, and which one to go on from.

    000000-pretrain-step-0
    000001-pretrain-step-212
    000002-pretrain-done        results and weights of a finished stage
    000003-classifier-step-0

Each is a directory of `snapshot.py`. A new one is whole before an old one goes: the last two are
kept, and the last finished language model, which the run that trains the classifier hands out.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from ulmfit_fast.errors import InputError, TrainingStopped
from ulmfit_fast.training.checkpoint import flush_to_disk
from ulmfit_fast.training.joining import here, is_first
from ulmfit_fast.training.lock import FolderLock
from ulmfit_fast.training.snapshot import (
    DamagedSnapshotError,
    Snapshot,
    read_snapshot,
    why_refused,
    write_snapshot,
)
from ulmfit_fast.training.stopping import StopRequest

#: Seconds between two checkpoints.
DEFAULT_EVERY_S = 300.0
#: Checkpoints that are kept: the newest may be damaged.
N_KEPT = 2
_NAME = re.compile(r"(\d{6,})-(\w+)-(?:step-\d+|done)")
#: What a kill leaves; the folder may be one that has other things of the user's in it.
_LEFT = re.compile(rf"\.{_NAME.pattern}\.(?:new|old)(?:-[0-9a-f]{{8}})?")
LANGUAGE_MODEL_STAGES = ("pretrain", "language_model")


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


@dataclass
class Checkpoints:
    """Where a training is saved, so that it can go on after whatever stopped it.

    Attributes:
        folder: for the checkpoints alone; made when the first one is written.
        every_s: seconds between two of them; 0 writes one after every step.
        logs: files that grow with the training. Going on cuts them back to where they were.
        warn: told what the user should know; None warns as Python does.
        stop: whether to stop.
        how_to_go_on: end of the message when a training stopped; None names ULMFiTTrainer.resume.
        processes: that began the training, whose batches it keeps; None: as many as train now.
        resumed: what the training goes on from, once find() has found it.
    """

    folder: Path
    every_s: float = DEFAULT_EVERY_S
    logs: Sequence[Path] = ()
    warn: Callable[[str], None] = _warn
    stop: StopRequest = field(default_factory=StopRequest)
    how_to_go_on: str | None = None
    processes: int | None = None
    resumed: Snapshot | None = field(default=None, init=False)
    saving_s: float = field(default=0.0, init=False)
    _saved_at: float = field(default=0.0, init=False)
    _has_warned: bool = field(default=False, init=False)
    _earlier_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self._lock = FolderLock(
            self.folder, lambda: max((p.name for p in self.paths()), default="")
        )
        self._began = self._saved_at = time.monotonic()
        if self.how_to_go_on is None:
            self.how_to_go_on = f"ULMFiTTrainer.resume({str(self.folder)!r}) and the same calls"

    @property
    def seconds(self) -> float:
        """Seconds that the training has taken, before it was stopped too."""
        return self._earlier_s + time.monotonic() - self._began

    def begun_by(self) -> int:
        """Return the number of processes that began the training."""
        if self.resumed is None:
            return self.processes or here().size
        n: int = self.resumed.values["trainer"].get("processes", 1)
        return n

    def paths(self) -> list[Path]:
        """Return the checkpoints that are there, the newest last."""
        if not self.folder.is_dir():
            return []
        return sorted(
            (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_number
        )

    def locked(self) -> AbstractContextManager[None]:
        """Return what keeps other trainers out of the folder; InputError where one is at it."""
        if not is_first():  # one of several processes does, for all
            return nullcontext()
        return self._lock.held(self.check_free, str(self.how_to_go_on))

    def find(self) -> Snapshot | None:
        """Read the newest checkpoint that is whole, and cut the logs back to it.

        Damaged ones after it are said and removed, as is what a kill left half written. Where
        several processes train, each of them calls this; the first one does the rest.

        Returns:
            resumed: None if there is no checkpoint.

        Raises:
            InputError: all are damaged, of another version, or another trainer is at it; the
                processes see different ones.
        """
        found: Snapshot | None = None
        self.resumed = None
        with here().in_turn("looking for a checkpoint"):
            if self.folder.is_dir():
                self._lock.look()
                with self.locked():
                    found = self._find()
        which = ("index", "stage", "run_seconds", "logs")
        here().check_same(str(found and [found.values[name] for name in which]), "checkpoints")
        return found

    def _find(self) -> Snapshot | None:
        """Read the newest checkpoint that is whole, if there are any; see find."""
        self.stop.forget()
        self._began = time.monotonic()
        paths = self.paths()
        damaged: list[DamagedSnapshotError] = []
        for path in reversed(paths):
            try:
                self.resumed = read_snapshot(path)
            except DamagedSnapshotError as error:
                damaged.append(error)
                continue
            for found in damaged:
                self.warn(f"{found}; going on from {path.name}, the one before")
            for bad in paths[paths.index(path) + 1 :]:
                shutil.rmtree(bad)
            self._sweep()
            self._earlier_s = self.resumed.values["run_seconds"]
            self.cut_logs(self.resumed)
            return self.resumed
        if damaged:
            raise InputError(f"{damaged[0]}; no checkpoint before it is whole: train again")
        return None

    def check_free(self) -> None:
        """Raise InputError if the folder has checkpoints and none of them was asked for."""
        if self.resumed is None and self.paths():
            raise InputError(
                f"{self.folder}: has checkpoints of a training that was stopped; go on with "
                "ULMFiTTrainer.resume, delete it, or give another folder"
            )

    def finished_language_model(self, index: int) -> Snapshot | None:
        """Read the language model that stage number index made; None, with a warning, without it.

        It is damaged then, or the disk refused it.
        """
        done = [path for path in self.paths() if _is_language_model(path)]
        try:
            snapshot = read_snapshot(done[-1]) if done else None
        except DamagedSnapshotError as error:
            self.warn(f"{error}; going on without the language model before the classifier")
            return None
        if snapshot is None or snapshot.values["index"] != index + 1:
            self.warn(f"{self.folder}: going on without the language model before the classifier")
            return None
        return snapshot

    def write(self, snapshot: Snapshot, name: str) -> None:
        """Write a checkpoint, then remove those that are no longer needed.

        Of several processes that train together the first one does it.

        Args:
            snapshot: what to write.
            name: the directory's, after its number.

        Raises:
            OSError: the disk refuses; the checkpoints before are still there.
        """
        if not is_first():
            return
        began = time.monotonic()
        logs = {}
        for log in self.logs:
            if log.exists():
                flush_to_disk(log)
                logs[log.name] = log.stat().st_size
        values = {**snapshot.values, "run_seconds": self.seconds, "logs": logs}
        paths = self.paths()
        number = _number(paths[-1]) + 1 if paths else 0
        self._sweep()
        path = self.folder / f"{number:06d}-{name}"
        write_snapshot(path, replace(snapshot, values=values))
        self._saved_at = time.monotonic()
        self.saving_s = self._saved_at - began
        self._remove_old([*paths, path])

    def try_to_write(self, make: Callable[[], Snapshot], name: str) -> None:
        """Write a checkpoint; where disk or memory refuse, say so once and train on without.

        Args:
            make: makes what to write.
            name: as for write.
        """
        try:
            self.write(make(), name)
        except (OSError, MemoryError, RuntimeError) as error:
            refusal = why_refused(error)
            self._saved_at = time.monotonic()
            if not self._has_warned:
                self._has_warned = True
                self.warn(
                    f"cannot write a checkpoint to {self.folder} ({refusal}): "
                    f"training goes on; {self.last_good()}"
                )

    def is_due(self) -> bool:
        """Say whether the last checkpoint is old enough."""
        return time.monotonic() - self._saved_at >= self.every_s

    def stopped(self, where: str) -> TrainingStopped:
        """Return the exception of a training that was asked to stop and is saved."""
        saved = f"saved; go on with: {self.how_to_go_on}" if self.paths() else "nothing to save yet"
        number = None if self.stop.signal is None else int(self.stop.signal)
        return TrainingStopped(f"stopped at {where}; {saved}", number)

    def last_good(self) -> str:
        """Name the newest checkpoint, for a message."""
        paths = self.paths()
        return f"the last good one is {paths[-1].name}" if paths else "there is none yet"

    def cut_logs(self, snapshot: Snapshot) -> None:
        """Cut the logs back to where they were."""
        for log in self.logs if is_first() else ():
            if not log.exists():
                continue
            size = snapshot.values["logs"].get(log.name, 0)
            if type(size) is not int or size < 0 or log.stat().st_size < size:
                self.warn(f"{log}: lines are missing that were there when the checkpoint was made")
            else:
                os.truncate(log, size)

    def _remove_old(self, paths: list[Path]) -> None:
        kept = set(paths[-N_KEPT:])
        kept |= set([path for path in paths if _is_language_model(path)][-1:])
        for path in paths:
            if path not in kept:
                # Renamed first: what has a name is whole.
                gone = path.with_name(f".{path.name}.old")
                try:
                    path.rename(gone)
                    shutil.rmtree(gone)
                except OSError as error:
                    self.warn(f"{path}: cannot be removed ({error.strerror})")

    def _sweep(self) -> None:
        """Remove what a kill left half written or half removed."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if _LEFT.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _is_language_model(path: Path) -> bool:
    """Tell the checkpoint of a finished language model by its name."""
    match = _NAME.fullmatch(path.name)
    is_stage = match is not None and match.group(2) in LANGUAGE_MODEL_STAGES
    return is_stage and path.name.endswith("-done")
