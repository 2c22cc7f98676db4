"""The output folder of a run: refused when it is taken, replaced only by a finished run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ulmfit_fast.errors import InputError


class RunFolder:
    """A folder that a run fills under the name `<name>.unfinished` until it is whole.

    Args:
        path: where the finished run will stand.
        overwrite: whether a finished run may stand there already; it is replaced at the end.

    Raises:
        InputError: the place is taken, or cannot be a folder.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self.unfinished = path.with_name(f"{path.name}.unfinished")
        if not path.name:
            raise InputError(f"--out {path}: give the name of a new folder")
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path}: a file has this name; give another folder with --out")
        if path.exists() and not overwrite:
            raise InputError(
                f"--out {path}: this folder exists; give another one with --out, or replace it "
                "with --overwrite"
            )
        if path.exists() and not _may_be_replaced(path):
            raise InputError(
                f"--out {path}: --overwrite replaces only folders that ulmfit-fast made (this one "
                "has no run.json); give another folder with --out"
            )
        if self.unfinished.exists() and not overwrite:
            raise InputError(
                f"{self.unfinished}: left by a run that was stopped, or is still running; delete "
                "it, replace it with --overwrite, or give another folder with --out"
            )

    @contextmanager
    def fill(self) -> Iterator[Path]:
        """Fill the folder; it gets its name only if nothing was raised.

        What was filled until an error is kept as `<name>.unfinished` if a model is in it, and
        otherwise removed.

        Yields:
            folder: empty.
        """
        if self.unfinished.exists():
            shutil.rmtree(self.unfinished)
        self.unfinished.mkdir(parents=True)
        try:
            yield self.unfinished
        except BaseException:
            if any(self.unfinished.glob("*/config.json")):
                sys.stderr.write(f"kept what was finished: {self.unfinished}\n")
            else:
                shutil.rmtree(self.unfinished)
            raise
        old = self.path.with_name(f"{self.path.name}.replaced")
        if self.path.exists():
            self.path.rename(old)
        self.unfinished.rename(self.path)
        if old.exists():
            shutil.rmtree(old)


def _may_be_replaced(path: Path) -> bool:
    return (path / "run.json").is_file() or not any(path.iterdir())


def write_whole(path: Path, text: str) -> None:
    """Write a text file under another name first, so that it is never there in part."""
    made = path.with_name(f"{path.name}.unfinished")
    made.write_text(text, encoding="utf-8")
    made.replace(path)


def default_out(source: str) -> Path:
    """Return runs/<name of the file without its endings>."""
    name = Path(source.removeprefix("hf:")).name.partition(".")[0]
    return Path("runs") / (name or "run")


def find_model(path: Path, *kinds: str) -> Path:
    """Return the model's folder, given it or the run's folder around it.

    Args:
        path: what the user named.
        kinds: "model" (a classifier) or "language_model", the one to be preferred first.
    """
    if (path / "config.json").exists():
        return path
    return next((path / kind for kind in kinds if (path / kind).is_dir()), path)
