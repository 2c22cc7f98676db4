"""What a report is made from: the files of a run's folder, those that are there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination import Examination
from ulmfit_fast.interpret.examination_json import from_json
from ulmfit_fast.training.history import History, read_log


@dataclass(frozen=True)
class Inputs:
    """A run's folder, read.

    Attributes:
        folder: where it is.
        run: values of run.json.
        history: of the stages; without stages where there is no log.
        examination: of the classifier; None where none was made.
        remarks: what is missing or could not be read.
    """

    folder: Path
    run: dict[str, Any]
    history: History = field(default_factory=History)
    examination: Examination | None = None
    remarks: tuple[str, ...] = ()


def read_inputs(folder: Path) -> Inputs:
    """Read run.json, metrics.jsonl and examination.json of a run's folder; only the first must be.

    Raises:
        InputError: no run is there, or one of the files is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: no run.json in this folder; give the folder of a finished run of "
            "ulmfit-fast train or pretrain"
        )
    run = _json(path)
    if not isinstance(run, dict):
        raise InputError(f"{path}: not the summary of a run; train again, or restore the file")
    remarks = []
    history, log = History(), folder / "metrics.jsonl"
    if log.is_file():
        history, n_unread = read_log(log)
        if n_unread:
            remarks.append(f"{n_unread} lines of metrics.jsonl could not be read")
    else:
        remarks.append("There is no metrics.jsonl: learning rates and losses of the steps are not "
                       "shown.")  # fmt: skip
    examination = None
    if (folder / "examination.json").is_file():
        examination = _examination(folder / "examination.json")
    elif run.get("kind") == "train":
        remarks.append("There is no examination.json: single texts, intervals of the classes and "
                       "calibration are not shown.")  # fmt: skip
    return Inputs(folder, run, history, examination, tuple(remarks))


def _examination(path: Path) -> Examination:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, or an InputError that does not name the file
        raise InputError(f"{path}: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); train again, or restore the file") from error
