"""The output folder of a run: refused when it is taken, replaced only by a finished run."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ulmfit_fast import pretrained
from ulmfit_fast.errors import InputError, RankLostError, TrainingStopped
from ulmfit_fast.text import SkippedRow
from ulmfit_fast.text.shards import check_source, name_of_source
from ulmfit_fast.training.lock import LOCK, locked

#: What only a run that is not finished needs.
CHECKPOINTS = "checkpoints"


class RunFolder:
    """A folder that a run fills under the name `<name>.unfinished` until it is whole.

    Args:
        path: where the finished run will stand.
        overwrite: whether a finished run may stand there already; it is replaced at the end.
        resume: whether to go on with what stands there unfinished.
        go_on: command that goes on with the run once it has checkpoints; None if none can.

    Raises:
        InputError: the place is taken, or cannot be a folder.
    """

    def __init__(
        self, path: Path, *, overwrite: bool, resume: bool = False, go_on: str | None = None
    ) -> None:
        self.path = path
        self.resume = resume
        self.go_on = go_on
        self.unfinished = path.with_name(f"{path.name}.unfinished")
        if not path.name:
            raise InputError(f"--out {path}: give the name of a new folder")
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path}: a file has this name; give another folder with --out")
        if path.exists() and not overwrite:
            raise InputError(
                f"{path}: this folder exists; give another one with --out, or replace it with "
                "--overwrite"
            )
        if path.exists() and not _may_be_replaced(path):
            raise InputError(
                f"--out {path}: --overwrite replaces only folders that ulmfit-fast made (this one "
                "has no run.json); give another folder with --out"
            )
        if self.unfinished.exists() and not overwrite and not resume:
            how = f"go on with it by `{go_on}`, " if go_on and self.has_checkpoints else ""
            raise InputError(
                f"{self.unfinished}: left by a run that was stopped, or is still running; {how}"
                "delete it, replace it with --overwrite, or give another folder with --out"
            )

    @property
    def has_checkpoints(self) -> bool:
        """Whether a run that was stopped can go on."""
        return any(self.unfinished.glob(f"{CHECKPOINTS}/*/manifest.json"))

    @contextmanager
    def fill(self) -> Iterator[Path]:
        """Fill the folder; it gets its name only if nothing was raised.

        What was filled until an error is kept as `<name>.unfinished` if a model or a checkpoint is
        in it, and otherwise removed.

        Yields:
            folder: empty, unless a run goes on.

        Raises:
            InputError: another process fills it.
        """
        if self.unfinished.exists() and not self.resume:
            with locked(self.unfinished):
                shutil.rmtree(self.unfinished)
        self.unfinished.mkdir(parents=True, exist_ok=True)
        with locked(self.unfinished):
            try:
                yield self.unfinished
            except BaseException as error:
                self._keep(error)
                raise
            self._name()

    def _keep(self, error: BaseException) -> None:
        """Say what is kept, or remove what nobody needs."""
        if not (self.has_checkpoints or any(self.unfinished.glob("*/config.json"))):
            shutil.rmtree(self.unfinished)
        elif not isinstance(error, TrainingStopped | RankLostError):  # which say so themselves
            how = f"; go on with: {self.go_on}" if self.go_on and self.has_checkpoints else ""
            sys.stderr.write(f"kept what was finished: {self.unfinished}{how}\n")

    def _name(self) -> None:
        """Give the folder its name, then remove what only the unfinished run needed."""
        old = self.path.with_name(f"{self.path.name}.replaced")
        if self.path.exists():
            if old.exists():  # left by a kill between the next two lines
                shutil.rmtree(old)
            self.path.rename(old)
        self.unfinished.rename(self.path)
        if old.exists():
            shutil.rmtree(old)
        self.tidy()

    def tidy(self) -> None:
        """Remove from a finished run what only the unfinished one needed."""
        for name in (LOCK, "resume.json"):
            (self.path / name).unlink(missing_ok=True)
        if (self.path / CHECKPOINTS).exists():
            shutil.rmtree(self.path / CHECKPOINTS)


def _may_be_replaced(path: Path) -> bool:
    return (path / "run.json").is_file() or not any(path.iterdir())


def write_whole(path: Path, text: str) -> None:
    """Write a text file under another name first, so that it is never there in part."""
    made = path.with_name(f"{path.name}.unfinished")
    made.write_text(text, encoding="utf-8")
    made.replace(path)


def path_of_run(path: Path) -> Path:
    """Return the folder of a run, given it or its unfinished form."""
    return path.with_name(path.name.removesuffix(".unfinished"))


def check_finished(path: Path) -> None:
    """Refuse a run that was stopped, where somebody asks for what it would leave.

    Raises:
        InputError: there is no such folder, but the unfinished one of a run.
    """
    unfinished = path.with_name(f"{path.name}.unfinished") if path.name else path
    if not path.exists() and unfinished.is_dir():
        raise InputError(
            f"{path}: this run is not finished ({unfinished}); go on with: ulmfit-fast train "
            f"--resume {path} (or pretrain, which it was begun by)"
        )


def default_out(file: str, start: str | None = None) -> Path:
    """Return `runs/<name of the file without its endings>`.

    Args:
        file: of texts, or a folder or pattern of such; empty for none.
        start: of which the folder has its name then.

    Raises:
        InputError: the folder is taken, and the file cannot be read: that is to be said first.
    """
    name = name_of_source(file.removeprefix("hf:")) or Path(start or "").name.partition(".")[0]
    out = Path("runs") / (name or "run")
    if out.exists() and file and not file.startswith("hf:"):
        check_source(file)
    return out


def find_model(path: Path, *kinds: str) -> Path:
    """Return the model's folder, given it or the run's folder around it.

    Args:
        path: what the user named; also a model of the package, by its name.
        kinds: "model" (a classifier) or "language_model", the one to be preferred first.
    """
    check_finished(path)
    path = pretrained.folder_of(path)
    if (path / "config.json").exists():
        return path
    return next((path / kind for kind in kinds if (path / kind).is_dir()), path)


def write_skipped(path: Path, skipped: Sequence[tuple[str, SkippedRow]]) -> None:
    """List the rows that were left out, if there are any."""
    if not skipped:
        return
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "row", "column", "reason"))
        writer.writerows((source, row.row, row.column, row.reason) for source, row in skipped)
