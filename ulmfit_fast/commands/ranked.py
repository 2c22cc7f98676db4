"""`train` and `pretrain` in several processes: who reads first, and what a restart goes on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ulmfit_fast.commands.run_folder import CHECKPOINTS, RunFolder, default_out, path_of_run
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.commands.train_options import RECORD, TrainOptions, how_to_go_on
from ulmfit_fast.errors import InputError, TrainingStopped
from ulmfit_fast.training import launch
from ulmfit_fast.training.checkpoint import read_json
from ulmfit_fast.training.launch import is_first
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.stopping import StopRequest

#: In a run's folder once --time-limit was reached: torchrun takes that for a failure, and restarts.
_LIMIT_REACHED = ".time_limit"


def after_restart(options: TrainOptions, verb: str, launch_id: str) -> TrainOptions:
    """Return options that go on with the run, where torchrun has started the processes anew.

    A run that stood there before is left to be refused or replaced, as at the first start.

    Args:
        options: of the command line, which is the same as before.
        verb: that was called.
        launch_id: of this call of torchrun; see Ranks.

    Raises:
        TrainingStopped: the run reached its time limit; it is not to go on by itself.
    """
    if not launch.n_restarts():
        return options
    out = options.resume or options.out or default_out(options.files.train, options.start)
    unfinished = out.with_name(f"{out.name}.unfinished")
    note = unfinished / _LIMIT_REACHED
    if note.exists() and note.read_text() == launch_id:
        raise TrainingStopped(f"the time limit was reached; go on with: {how_to_go_on(verb, out)}")
    is_own = any(_launch_of(path) == launch_id for path in (unfinished / RECORD, out / "run.json"))
    return replace(options, resume=out) if launch_id and is_own else options


def _launch_of(path: Path) -> str | None:
    """Return the id of the launch that a run's file is of; None where there is none."""
    found = read_json(path).get("launch") if path.is_file() else None
    return found if isinstance(found, str) else None


def note_stop(place: Path, stopped: TrainingStopped | None, launch_id: str) -> None:
    """Note in a run's folder whether it was stopped by its time limit.

    Args:
        place: the folder.
        stopped: what stopped it; None at its beginning.
        launch_id: of this call of torchrun.
    """
    note = place / _LIMIT_REACHED
    if stopped is not None and stopped.signal is None and launch.world_size() > 1:
        note.write_text(launch_id)
    else:
        note.unlink(missing_ok=True)


def run_folder(options: TrainOptions, verb: str) -> RunFolder:
    """Return the folder of a run: to fill, or to see another process fill it.

    Raises:
        InputError: it is taken, or there is no run to go on with.
    """
    out = options.resume or options.out or default_out(options.files.train, options.start)
    path = out if options.resume is None else path_of_run(out)
    go_on = how_to_go_on(verb, path)
    if not is_first():
        return RunFolder(path, overwrite=True, resume=True, go_on=go_on)
    if options.resume is None:
        return RunFolder(path, overwrite=options.overwrite, go_on=go_on)
    folder = RunFolder(path, overwrite=True, resume=True, go_on=go_on)
    if not folder.unfinished.exists() and not (path / "run.json").is_file():
        raise InputError(f"--resume {path}: there is no run of this name, finished or not")
    return folder


def checkpoints_of(folder: RunFolder, options: TrainOptions, terminal: Terminal) -> Checkpoints:
    """Return where a run is saved while it trains."""
    place = folder.unfinished
    return Checkpoints(
        place / CHECKPOINTS, options.checkpoint_every_s, logs=[place / "metrics.jsonl"],
        warn=terminal.warn, stop=StopRequest(options.time_left_s), how_to_go_on=folder.go_on,
        processes=options.settings.processes,
    )  # fmt: skip
