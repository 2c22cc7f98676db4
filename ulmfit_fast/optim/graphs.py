"""An optimizer whose step can be in a CUDA graph, with the settings of now in every replay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ulmfit_fast.optim.copies import NUMBERS, Numbers, Shadows
from ulmfit_fast.optim.settings import LiveSettings, rows_of


class Replayable(torch.optim.Optimizer):
    """The part of LayerwiseAdamW that knows about CUDA graphs."""

    max_grad_norm: float | None
    skip_nonfinite: bool
    _averaging: bool
    _has_shadows: bool
    _settings: LiveSettings
    _shadows: Shadows
    _numbers: Numbers
    #: What the last capture holds.
    _captured: object = None

    @property
    def needs_refresh(self) -> bool:
        """Whether a setting of a group has changed since it was sent to the GPU (capturable)."""
        return not self._settings.are_sent(self.param_groups)

    def refresh(self) -> None:
        """Send changed settings to the GPU, where the next replay of a CUDA graph reads them."""
        self._settings.refresh(self.param_groups)

    def replay(self, graph: torch.cuda.CUDAGraph) -> None:
        """Replay a CUDA graph with this optimizer's step in it, with the settings of now.

        graph.replay() alone would take the settings that were sent last.

        Args:
            graph: the one captured last.

        Raises:
            RuntimeError: something that the graph holds is not what the optimizer has now, or the
                optimizer is not capturable.
        """
        if not self._settings.capturable:
            raise RuntimeError("no graph can hold this step: make LayerwiseAdamW(capturable=True)")
        if self._captured is not None and self._captured != self._held_by_graphs():
            raise RuntimeError(
                "groups were frozen or unfrozen, a state dict was loaded, or max_grad_norm, "
                "skip_nonfinite or averaging was changed since the CUDA graph was captured: "
                "capture another"
            )
        self.refresh()
        graph.replay()

    def _check_complete(self, params: Sequence[Tensor], averages: bool) -> None:
        """Raise RuntimeError if a capture would have to make state: every replay would make it."""
        complete = all(self._numbers.find(name, params[0].device) is not None for name in NUMBERS)
        for param in params:
            state = self.state.get(param, {})
            complete &= "exp_avg" in state and ("ax" in state or not averages)
            complete &= not self._has_shadows or self._shadows.find(param) is not None
        if not complete:
            raise RuntimeError(
                "a parameter has no state yet, and the CUDA graph would make it anew on every "
                "replay: take a step before the capture"
            )

    def _held_by_graphs(self) -> object:
        """Return everything that a CUDA graph of a step holds: options, and addresses."""
        options = (self.max_grad_norm, self.skip_nonfinite, self._averaging)
        tensors: list[Tensor | None] = [self._settings.table]
        tensors += [value for _, _, value in rows_of(self.param_groups)[1]]
        for group in self.param_groups:
            for param in () if group["frozen"] else group["params"]:
                state = self.state.get(param, {})
                tensors += [param, *(state[name] for name in sorted(state))]
                tensors.append(self._shadows.find(param))
        return options, [None if tensor is None else tensor.data_ptr() for tensor in tensors]
