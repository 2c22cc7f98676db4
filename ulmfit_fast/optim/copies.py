"""bfloat16 copies of parameters, and single numbers on their device."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast.optim.state import has_layout_of

#: Numbers that the op writes: their dtype and first value.
NUMBERS: dict[str, tuple[torch.dtype, float]] = {
    "grad_norm": (torch.float32, float("nan")),
    "skipped_steps": (torch.int64, 0),
    "ticket": (torch.int32, 0),
}


class Shadows:
    """bfloat16 copies of parameters, in their layouts, on their devices."""

    def __init__(self) -> None:
        self._of: dict[Tensor, Tensor] = {}

    def find(self, param: Tensor) -> Tensor | None:
        """Return the copy of a parameter; None if there is none that fits it."""
        copy = self._of.get(param)
        if copy is None or copy.shape != param.shape or copy.device != param.device:
            return None
        return copy if has_layout_of(copy, param) else None

    def of(self, param: Tensor) -> Tensor:
        """Return the copy of a parameter, made where there is none that fits it."""
        copy = self.find(param)
        if copy is None:
            copy = self._of[param] = param.detach().to(torch.bfloat16)
        return copy

    def sync(self) -> None:
        """Copy all parameters again."""
        for param in self._of:
            self.of(param).copy_(param.detach())


class Numbers:
    """The numbers of NUMBERS, 0-dim, on the device where the last step was."""

    def __init__(self) -> None:
        self._of: dict[str, Tensor] = {}

    def find(self, name: str, device: torch.device) -> Tensor | None:
        """Return a number; None if it is not on the device."""
        number = self._of.get(name)
        return number if number is not None and number.device == device else None

    def on(self, name: str, device: torch.device) -> Tensor:
        """Return a number on a device, where it is moved to if it is elsewhere."""
        number = self.find(name, device)
        if number is None:
            dtype, first = NUMBERS[name]
            old = self._of.get(name)
            if old is None or old.device.type == "meta":
                number = torch.full((), first, dtype=dtype, device=device)
            else:
                number = old.to(device)
            self._of[name] = number
        return number

    def last(self, name: str, otherwise: torch.device) -> Tensor:
        """Return a number where the last step was, or on another device before the first one."""
        return self._of[name] if name in self._of else self.on(name, otherwise)
