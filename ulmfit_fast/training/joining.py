"""Joining the processes that torchrun has started, and leaving them."""

from __future__ import annotations

import gc
import os
import sys
import uuid
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from ulmfit_fast.errors import InputError, RankLostError
from ulmfit_fast.training import launch
from ulmfit_fast.training.ranks import ALONE, Ranks

#: Seconds after which a process that is waited for counts as lost. torchrun gives one that ignores
#: SIGTERM 30 s more before it kills it: the job of a rank that hangs ends within two minutes.
DEFAULT_TIMEOUT_S = 90.0

_joined: Ranks | None = None


def is_first() -> bool:
    """Say whether this process talks and writes for all, without joining them."""
    return launch.is_first() if _joined is None else _joined.is_first


def joined() -> Ranks | None:
    """Return the processes that train together if this one has joined them."""
    return _joined


def here() -> Ranks:
    """Return the processes that train together, joining them at the first call."""
    return join() if _joined is None else _joined


def join(timeout_s: float = DEFAULT_TIMEOUT_S) -> Ranks:
    """Join the processes that a launcher such as torchrun started; ALONE where there is one.

    A process group that the caller made is used as it is. Every process has to call this.

    Args:
        timeout_s: seconds after which a process that is waited for counts as lost.

    Raises:
        InputError: torch knows no process groups.
        RankLostError: not all processes came.
    """
    global _joined
    if _joined is not None:
        return _joined
    is_made = dist.is_available() and dist.is_initialized()
    if not is_made and launch.world_size() == 1:
        _joined = ALONE
        return _joined
    if not dist.is_available():
        raise InputError(
            f"torch {torch.__version__} was built without torch.distributed: train in one process, "
            "or install another"
        )
    # Here, as torch may have been built without process groups.
    from ulmfit_fast.training.joined_ranks import JoinedRanks

    launch_id = "" if is_made else _make_group(timeout_s)
    _joined = JoinedRanks(timeout_s, launch_id) if dist.get_world_size() > 1 else ALONE
    return _joined


def leave() -> None:
    """Take this process out of the group, once all have done their work."""
    global _joined
    was, _joined = _joined, None
    if was is not None and was.size > 1:
        was.end()
        gc.collect()  # a wrapped model in a circle holds on to the group
        dist.destroy_process_group()


def _make_group(timeout_s: float) -> str:
    """Make the default process group; return the id of the launch."""
    from torch.distributed.rendezvous import rendezvous

    from ulmfit_fast.training.joined_ranks import DEVICE_TIMEOUT

    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    if has_nccl and launch.local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(launch.local_rank())
    hook = sys.excepthook
    seconds = timedelta(seconds=timeout_s * (DEVICE_TIMEOUT if has_nccl else 1))
    try:
        store, rank, size = next(rendezvous("env://", timeout=seconds))
        launch_id = _launch_id(store)
        # torchrun's store outlives a restart, and so would the addresses of those who were killed.
        store = dist.distributed_c10d.PrefixStore(f"attempt{launch.n_restarts()}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if has_nccl else "gloo",
            store=store, rank=rank, world_size=size, timeout=seconds,
        )  # fmt: skip
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        raise RankLostError(
            f"rank {launch.rank()} of {launch.world_size()} could not join the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({first_line})"
        ) from error
    sys.excepthook = hook  # torch puts its own around it
    return launch_id


def _launch_id(store: Any) -> str:
    """Return what all processes of a launch find in its store, after restarts too.

    torchrun's run id is no help: it is "none", or what the user gives to every launch.
    """
    while isinstance(
        store, dist.distributed_c10d.PrefixStore
    ):  # torch puts one around it for each attempt
        store = store.underlying_store
    found: bytes = store.compare_set("ulmfit_fast/launch", "", uuid.uuid4().hex)
    return found.decode()
