"""What the loop asks of whoever keeps its state while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class StageState:
    """Everything a stage needs to go on bit for bit.

    Attributes:
        values: JSON values.
        tensors: may be the ones that training moves.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where a stage is.

    Attributes:
        stage: its name.
        step: optimizer steps done.
        n_steps: of the whole stage.
    """

    stage: str
    step: int
    n_steps: int

    def __str__(self) -> str:
        return f"stage {self.stage}, step {self.step} of {self.n_steps}"


Capture = Callable[[], StageState]


class Keeper:
    """Keeps nothing, never stops a stage, and has nothing to go back to."""

    def held_back(self) -> AbstractContextManager[None]:
        """Return a context in which no signal comes between two lines."""
        return nullcontext()

    def begun(self) -> StageState | None:
        """Return the state that the stage goes on from; None if it begins."""
        return None

    def is_asked_to_stop(self) -> bool:
        """Say whether the stage shall stop where it is."""
        return False

    def keep(self, place: Place, capture: Capture, *, at_once: bool = False) -> None:
        """Keep the state if it is time to, or at once."""

    def stop(self, place: Place, capture: Capture) -> None:
        """Keep the state and raise TrainingStopped."""

    def go_back(self) -> StageState | None:
        """Return a state of this stage from before, to train on from; None if there is none."""
        return None

    def warn(self, message: str) -> None:
        """Tell the user."""
        warnings.warn(message, RuntimeWarning, stacklevel=2)
