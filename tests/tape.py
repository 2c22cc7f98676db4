"""A CUDA graph's twin on a CPU: operations on tensors are noted, undone, and done again on replay.

As in a capture, a recording leaves no trace: what it changed and the generator are put back. As in
a replay, no Python runs again: every noted operation reads and writes the very tensors that it had,
draws new random numbers, and takes numbers of the host as they were. Reading a value is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ulmfit_fast.optim.settings import LiveSettings, rows_of


class Tape(TorchDispatchMode):
    """Notes every operation under it; replay does them again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.n_replays = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a capture cannot read a value")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(value):
                    if isinstance(tensor, Tensor):
                        self.before.setdefault(id(tensor), (tensor, tensor.detach().clone()))
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out

    def undo(self) -> None:
        """Put back what the recorded operations changed."""
        for tensor, value in self.before.values():
            tensor.detach().copy_(value)
        self.before.clear()

    @torch.no_grad()
    def replay(self) -> None:
        self.n_replays += 1
        for func, args, kwargs, out in self.calls:
            returns = func._schema.returns
            if any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
                continue  # a view sees what is in its memory
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)

    def pool(self) -> None:
        """Return no memory to share."""


class TapeRecorder:
    """Stands in for CudaRecorder."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def record(self, call: Callable[[], None], beside: Any) -> Any:
        tape, generator = Tape(), torch.get_rng_state()
        assert beside is None or beside in self.tapes
        with tape:
            call()
        tape.undo()
        torch.set_rng_state(generator)
        self.tapes.append(tape)
        return tape


@contextmanager
def settings_in_memory() -> Iterator[None]:
    """Have a capturable optimizer read its settings from memory on the CPU, as on a GPU."""

    def send(self: LiveSettings, rows: list[list[float]], device: torch.device) -> Tensor:
        if self.table is None:
            self.table = torch.empty(len(rows), 5, dtype=torch.float64)
        self.table.copy_(torch.tensor(rows, dtype=torch.float64))
        self.sent = rows
        return self.table

    def tensor(self: LiveSettings, groups: Any, device: torch.device, capturing: bool) -> Tensor:
        if not self.capturable:
            return torch.tensor(rows_of(groups)[0], dtype=torch.float64)
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            self.check_capture(groups)
            assert self.table is not None
            assert self.are_sent(groups), "a capture cannot send settings"
            return self.table
        return self.send(rows_of(groups)[0], device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveSettings, "send", send)
        patch.setattr(LiveSettings, "tensor", tensor)
        yield
