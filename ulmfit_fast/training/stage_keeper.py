"""Writes the checkpoints of one stage."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ulmfit_fast.errors import TrainingError
from ulmfit_fast.training.keeper import Capture, Keeper, Place, StageState
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.snapshot import (
    DamagedSnapshotError,
    Snapshot,
    read_snapshot,
    why_refused,
)


class StageKeeper(Keeper):
    """Writes checkpoints of one stage.

    Args:
        checkpoints: where to.
        frame: what stands in every checkpoint of the stage, and its tokenizer.
        state: what the stage goes on from; None if it begins.
    """

    def __init__(self, checkpoints: Checkpoints, frame: Snapshot, state: StageState | None) -> None:
        self._checkpoints = checkpoints
        self._frame = frame
        self._state = state
        self._n_returns = 0

    def held_back(self) -> AbstractContextManager[None]:
        """Remember signals until a step is done."""
        return self._checkpoints.stop.held_back()

    def begun(self) -> StageState | None:
        """Return what the stage goes on from; None if it begins."""
        return self._state

    def is_asked_to_stop(self) -> bool:
        """Say whether a signal came or the time is over."""
        return self._checkpoints.stop.is_asked(1.5 * self._checkpoints.saving_s)

    def keep(self, place: Place, capture: Capture, *, at_once: bool = False) -> None:
        """Write a checkpoint if it is due or at once; raise TrainingStopped if asked to stop."""
        if self.is_asked_to_stop():
            self.stop(place, capture)
        elif at_once or self._checkpoints.is_due():
            self._try_to_save(place, capture)

    def _try_to_save(self, place: Place, capture: Capture) -> None:
        """Write a checkpoint, or go on without."""
        with self.held_back():
            self._checkpoints.try_to_write(lambda: self._snapshot(capture), _name(place))

    def stop(self, place: Place, capture: Capture) -> None:
        """Write a checkpoint and raise TrainingStopped; TrainingError if that is refused."""
        self._save(place, capture)
        raise self._checkpoints.stopped(str(place))

    def _save(self, place: Place, capture: Capture) -> None:
        """Write a checkpoint; raise TrainingError if that is refused."""
        with self.held_back():
            try:
                self._checkpoints.write(self._snapshot(capture), _name(place))
            except (OSError, MemoryError, RuntimeError) as error:
                refusal = why_refused(error)
                kept = self._checkpoints
                raise TrainingError(
                    f"stopped at {place}, but not saved: {kept.folder}: {refusal}; "
                    f"{kept.last_good()}: make room, then go on with: {kept.how_to_go_on}"
                ) from error

    def go_back(self) -> StageState | None:
        """Return the newest state of this stage, or the one before where that did not help."""
        self._n_returns += 1
        name = f"-{self._frame.values['stage']}-step-"
        paths = [path for path in self._checkpoints.paths() if name in path.name]
        for path in reversed(paths[: len(paths) - min(self._n_returns, len(paths)) + 1]):
            try:
                snapshot = read_snapshot(path)
            except DamagedSnapshotError as error:
                self.warn(str(error))
                continue
            if snapshot.values["index"] == self._frame.values["index"]:
                self._checkpoints.cut_logs(snapshot)
                return StageState(snapshot.values["state"], snapshot.tensors)
        return None

    def warn(self, message: str) -> None:
        """Tell the user."""
        self._checkpoints.warn(message)

    def _snapshot(self, capture: Capture) -> Snapshot:
        state = capture()
        values: dict[str, Any] = {**self._frame.values, "state": state.values}
        return Snapshot(values, state.tensors, self._frame.tokenizer)


def _name(place: Place) -> str:
    return f"{place.stage}-step-{place.step}"
