"""Where to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ulmfit_fast import _native
from ulmfit_fast.errors import InputError
from ulmfit_fast.training import launch


def choose_device(name: str | None) -> torch.device:
    """Return the device to train on; None takes a GPU where torch sees one.

    Of several processes that torchrun starts, each takes the GPU of its number.

    Raises:
        InputError: no such device here, or no kernels for it; the message says why.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and launch.world_size() > 1:
        name = f"cuda:{launch.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device {name!r}: give cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"no kernels for device {name!r}: give cpu or cuda")
    if device.type == "cuda":
        is_own = device.index in (None, launch.local_rank())
        if launch.local_world_size() > 1 and not is_own:
            raise InputError(
                f"device {name!r}: {launch.local_world_size()} processes train here, each on the "
                "GPU of its number: give cuda"
            )
        check_cuda(device)
    return device


def check_cuda(device: torch.device) -> None:
    """Raise InputError unless the GPU is there and every op has a kernel for it."""
    if not torch.cuda.is_available():
        raise InputError(
            f"device {str(device)!r} is not usable: torch {torch.__version__} sees no GPU; give cpu"
        )
    if (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"no device {str(device)!r}: torch sees {torch.cuda.device_count()} GPUs")
    try:
        _native.require_kernel("drop_connect", device)
    except RuntimeError as error:
        raise InputError(f"{error} Or train on the CPU: give device cpu.") from error


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a stage, without the caller's generators and without its autocast."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False):
        torch.manual_seed(seed)
        yield


def check_cuda_graphs(device: torch.device) -> None:
    """Raise InputError unless the device can replay CUDA graphs, and one process trains."""
    check_alone(launch.world_size())
    if device.type != "cuda":
        raise InputError(
            f"CUDA graphs need a GPU, and the device is {str(device)!r}: train without "
            "--cuda-graphs (cuda_graphs=False)"
        )


def check_alone(n_processes: int) -> None:
    """Raise InputError, where CUDA graphs are wanted, unless one process trains."""
    if n_processes > 1:
        raise InputError(
            f"CUDA graphs are of one process, and {n_processes} train here: train without "
            "--cuda-graphs (cuda_graphs=False)"
        )
