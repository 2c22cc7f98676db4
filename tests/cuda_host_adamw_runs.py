"""Takes the optimizer's step with the CUDA kernels, on a CPU: see tests/cuda_host/run_adamw.cpp."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from adamw_calls import Arguments, Case, draw
from cuda_host_runs import execute
from torch import Tensor


def of(*sizes: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of vectors."""
    return tuple((n,) for n in sizes)


#: Around a warp's line (128) and a tile (2048); several tiles; nothing.
SIZES = (1, 127, 128, 2047, 2048, 2049, 5000, 0)
CASES = {
    "every size": Case(of(*SIZES)),
    "nothing first": Case(of(0, *SIZES), first_step=3, shadow=True, average=0.0),
    "only nothing": Case(of(0, 0), shadow=True, average=0.0),
    "unaligned": Case(of(*SIZES), first_step=9, layout="unaligned", shadow=True, average=0.1),
    "transposed": Case(((70, 50), (3, 1)), first_step=0, layout="transposed", average=0.0),
    "shadow": Case(of(*SIZES), shadow=True),
    "average": Case(of(*SIZES), average=0.1),
    "norm below the limit": Case(of(*SIZES), max_grad_norm=1e9, grad_scale=1024.0, first_step=1),
    "norm above the limit": Case(of(*SIZES), max_grad_norm=1e-3, grad_scale=1024.0, first_step=1),
    "no limit": Case(of(*SIZES), max_grad_norm=None, first_step=99_999),
    "non-finite passes": Case(of(*SIZES), skip_nonfinite=False),
    "no measure": Case(of(*SIZES), max_grad_norm=None, skip_nonfinite=False, grad_scale=1024.0),
    "no infinity found": Case(of(*SIZES), found_inf=0.0, grad_scale=2.0),
    "squares beyond float32": Case(of(*SIZES), scale=1e19, first_step=1),
    "squares below float32": Case(of(*SIZES), scale=1e-25, first_step=1),
    "mixed magnitudes": Case(of(*SIZES), scale=-1.0, first_step=2),
    "several turns": Case(of(40_000, 0, 130_000, 3), first_step=2, shadow=True, average=0.0),
    "small table full": Case(of(*range(1, 33)), first_step=2),
    "large table": Case(of(*range(1, 34)), first_step=2),
}
#: What takes a table of 31 KB to every thread.
MANY = {
    "large table full": Case(of(*range(1, 241)), first_step=2, max_grad_norm=1e9),
    "two launches": Case(of(*[3000] * 20, *range(230)), first_step=2, shadow=True, average=0.0),
    "nothing in the second launch": Case(of(*[9] * 240, 0, 0), first_step=2),
    "three launches": Case(of(*range(490)), first_step=1, average=0.1),
}
#: The op's arguments, in order.
NAMES = tuple(draw(Case(((1,),))))
#: What run_adamw reads of a tensor, in order; all but the gradient come back.
LISTS = ("params", "grads", "exp_avgs", "exp_avg_sqs", "shadows", "averages", "steps", "n_averaged")
NUMBERS = ("grad_norm", "skipped_steps", "ticket")


@dataclass(frozen=True)
class HostStep:
    """A step under the schedules of some seeds, which take the multiprocessors in turn.

    Called with the op's arguments, in order. on_device hands the layers over as a GPU would have
    them; mutation breaks a primitive of the emulator.
    """

    program: Path
    folder: Path
    seeds: range = range(12)
    multiprocessors: tuple[int, ...] = (1, 2, 3, 132)
    on_device: bool = False
    mutation: str = ""

    def __call__(self, *arguments: object) -> None:
        """Take the step in place; fail with what the program said."""
        call = dict(zip(NAMES, arguments, strict=True))
        case, result = self.folder / "case", self.folder / "result"
        case.write_bytes(written(call, self.on_device))
        seeds = (str(self.seeds.start), str(len(self.seeds)))
        grids = ",".join(map(str, self.multiprocessors))
        message = execute(self.program, case, result, *seeds, grids, self.mutation)
        assert not message, message
        read(call, result)


def memory(tensor: Tensor) -> Tensor:
    """Return the elements of a dense tensor as they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def words(tensor: Tensor) -> bytes:
    """Return the bytes of a dense tensor."""
    return memory(tensor).view(torch.uint8).numpy().tobytes()


def written(call: Arguments, on_device: bool) -> bytes:
    """Return a case as run_adamw reads it."""
    scale, found, limit = (call[name] for name in ("grad_scale", "found_inf", "max_grad_norm"))
    n = len(call["params"])
    counts = [n, len(call["layers"]), bool(call["shadows"]), bool(call["averages"])]
    counts += [scale is not None, found is not None, on_device]
    counts += [limit is not None or call["skip_nonfinite"], call["skip_nonfinite"]]
    header = np.array([math.inf if limit is None else limit, call["average_weight"]])
    parts = [np.array(counts, np.int64).tobytes(), header.tobytes(), words(call["layers"])]
    parts += [words(torch.tensor(math.nan) if x is None else x) for x in (scale, found)]
    parts += [words(call[name]) for name in NUMBERS]
    for i in range(n):
        tensors = [call[name][i] if call[name] else torch.empty(0) for name in LISTS]
        offsets = [t.data_ptr() % 16 for t in tensors[:6]]
        shape = [tensors[0].numel(), call["layer_of"][i], *offsets]
        parts += [np.array(shape, np.int64).tobytes(), *map(words, tensors)]
    return b"".join(parts)


def read(call: Arguments, path: Path) -> None:
    """Put what run_adamw writes into the tensors of a call."""
    data, at = torch.from_numpy(np.fromfile(path, np.uint8)), 0
    changed = [name for name in LISTS if call[name] and name != "grads"]
    tensors = [call[name][i] for i in range(len(call["params"])) for name in changed]
    for tensor in [*tensors, *(call[name] for name in NUMBERS)]:
        into = memory(tensor).view(torch.uint8)
        into.copy_(data[at : at + len(into)])
        at += len(into)
    assert at == len(data)
