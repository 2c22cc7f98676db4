"""The trackers that a run was asked to log to."""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ulmfit_fast import __version__
from ulmfit_fast.commands.environment import environment
from ulmfit_fast.commands.report import Run
from ulmfit_fast.errors import InputError, one_line
from ulmfit_fast.loggers import MetricLogger

#: File in a run's folder with the name that trackers know the run by, also when it is resumed.
RUN_ID = "run_id.txt"
#: Folder of TensorBoard's files in a run's.
TENSORBOARD = "tensorboard"


def make_loggers(
    run: Run, place: Path, name: str, warn: Callable[[str], None]
) -> list[MetricLogger]:
    """Begin the loggers of a run, or go on with them.

    Args:
        run: knows which.
        place: its folder; what stands in metrics.jsonl there was done before.
        name: of the run, for people.
        warn: takes one line where a logger fails later.

    Raises:
        InputError: a tracker is not installed, or cannot begin.
    """
    if not run.log_to:
        return []
    run_id = _run_id(place)
    options: dict[str, Any] = {
        "config": _config_of(run), "steps_before": _steps_before(place / "metrics.jsonl"),
        "warn": warn,
    }  # fmt: skip
    loggers: list[MetricLogger] = []
    try:
        for tracker in dict.fromkeys(run.log_to):
            loggers.append(_begin(tracker, place, (name, run_id), options))
    except InputError:
        for logger in loggers:
            logger.close()
        raise
    return loggers


def _begin(
    tracker: str, place: Path, names: tuple[str, str], options: dict[str, Any]
) -> MetricLogger:
    """Begin one logger of a run with a name and an id."""
    name, run_id = names
    try:
        module: Any = import_module(f"ulmfit_fast.loggers.{tracker}")
    except ImportError as error:
        raise InputError(f"--log-to {tracker}: {one_line(error)}") from error
    made: MetricLogger
    if tracker == "tensorboard":
        made = module.TensorBoardLogger(place / TENSORBOARD, **options)
    elif tracker == "wandb":
        made = module.WandbLogger(name, run_id=run_id, **options)
    else:  # knows a run by its name alone
        made = module.TrackioLogger(f"{name}-{run_id}", resume=True, **options)
    return made


def _run_id(place: Path) -> str:
    """Return the id that trackers know a run by, the same when it is resumed."""
    file = place / RUN_ID
    if not file.exists():
        file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _steps_before(log: Path) -> dict[str, int]:
    """Return the last step of every stage in a log, whose last line may be torn."""
    steps: dict[str, int] = {}
    if log.exists():
        for line in log.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                event = json.loads(line)
                steps[event["stage"]] = event.get("step", steps.get(event["stage"], 0))
    return steps


def _config_of(run: Run) -> dict[str, Any]:
    """Return settings and environment of a run as JSON values."""
    choices = run.choices
    return {
        "source": run.source,
        "base": None if run.base is None else str(run.start or run.base),
        "size": choices.size,
        "tokenizer": choices.tokenizer,
        "device": choices.device,
        "train": choices.config.to_dict(),
        "environment": {
            "ulmfit_fast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            **environment(),
        },
    }
