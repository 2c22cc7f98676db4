"""What LayerwiseAdamW shows beside the parameters: norm, skipped steps, copies, averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor

from ulmfit_fast.optim.graphs import Replayable
from ulmfit_fast.optim.state import swap


class WithViews(Replayable):
    """The part of LayerwiseAdamW that shows what a step made."""

    _average: float | Literal["mean"] | None
    _holds_average = False

    @property
    def last_grad_norm(self) -> Tensor:
        """Norm of the last step's unfrozen gradients, before clipping; 0-dim, on their device.

        A tensor of its own, which later steps leave alone; NaN until a step has needed a norm, and
        infinite where float32 does not hold it. Reading its value waits for the GPU.
        """
        return self._numbers.last("grad_norm", self.param_groups[0]["params"][0].device).clone()

    @property
    def skipped_steps(self) -> Tensor:
        """Number of steps that changed nothing; int64, 0-dim, on the device of the parameters.

        A tensor of its own, which later steps leave alone. Reading its value waits for the GPU.
        """
        return self._numbers.last("skipped_steps", self.param_groups[0]["params"][0].device).clone()

    @property
    def averaging(self) -> bool:
        """Whether steps go into the average."""
        return self._averaging

    @averaging.setter
    def averaging(self, value: bool) -> None:
        if value and self._average is None:
            raise ValueError('no average is kept: make LayerwiseAdamW(average="mean")')
        self._averaging = value

    def shadow(self, param: Tensor) -> Tensor:
        """Return the bfloat16 copy of a parameter: after every step it is param.to(bfloat16).

        After anything else that changes parameters, such as model.load_state_dict, call
        sync_shadows.

        Raises:
            RuntimeError: the optimizer was made without bf16_shadow.
        """
        if not self._has_shadows:
            raise RuntimeError("no bfloat16 copies are kept: make LayerwiseAdamW(bf16_shadow=True)")
        return self._shadows.of(param)

    def sync_shadows(self) -> None:
        """Copy the parameters into their bfloat16 copies, for when something else changed them."""
        self._shadows.sync()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the parameters hold their averages inside a with block; without one they stay.

        bfloat16 copies follow. Inside, the optimizer takes no step, and is not saved, loaded or
        copied; the model may be. A block inside another changes nothing.

        Raises:
            RuntimeError: the optimizer was made without average.
        """
        if self._average is None:
            raise RuntimeError('no average is kept: make LayerwiseAdamW(average="mean")')
        if self._holds_average:
            yield
            return
        pairs = [(p, s["ax"]) for p, s in self.state.items() if "ax" in s]
        self._swap(pairs, True)
        try:
            yield
        finally:
            self._swap(pairs, False)

    def _swap(self, pairs: list[tuple[Tensor, Tensor]], holds_average: bool) -> None:
        swap(pairs)
        self._holds_average = holds_average
        self.sync_shadows()

    def _check_not_averaged(self, what: str) -> None:
        """Raise RuntimeError inside averaged(), where the state holds the parameters."""
        if self._holds_average:
            raise RuntimeError(f"{what} inside averaged(): leave its block first")
