"""This process among several that train together.

They talk in three process groups: gradients go through the default one, losses and the sums of a
batch norm through `sums`, and what the host decides (stopping, checkpoints) through `control`,
which is gloo's and always on the CPU. Where one of them may be busy for longer than the timeout,
the others wait for a key in the launcher's store, and look whether it still counts up its beats. A
process that ends or hangs is noticed either way, and all others raise RankLostError.
"""

from __future__ import annotations

import atexit
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from ulmfit_fast.errors import InputError, RankLostError
from ulmfit_fast.training import launch
from ulmfit_fast.training.ranks import Ranks

_LONGEST_SLEEP_S = 0.25
#: Seconds between two signs of life, and how long one may be late once all are asked to end: one
#: that has died then counts as lost before torchrun kills those who wait for it.
_BEAT_S, _LATE_S = 1.0, 5.0
# gloo sees at once that the host of a rank is gone, so NCCL comes second: times the timeout.
DEVICE_TIMEOUT = 2.0
_LOST = "another process of this training has ended, or has not answered for {:g} s"


class JoinedRanks(Ranks):
    """This process among several.

    Args:
        timeout_s: seconds after which a process counts as lost.
        launch_id: see Ranks.
    """

    def __init__(self, timeout_s: float, launch_id: str = "") -> None:
        super().__init__()
        self.launch_id = launch_id
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.timeout_s = timeout_s
        waits = timedelta(seconds=timeout_s)
        self.control = dist.new_group(backend="gloo", timeout=waits)
        # As for the default group: NCCL's watchdog ends the process without a word.
        with_nccl = "nccl" in str(dist.get_backend_config())
        self.sums = dist.new_group(timeout=waits * (DEVICE_TIMEOUT if with_nccl else 1))
        default_store = dist.distributed_c10d._get_default_store()
        self._store = dist.distributed_c10d.PrefixStore("ulmfit_fast", default_store)
        self._n_turns = 0
        self._is_first_to_say: bool | None = None  # once asked
        self._ends = threading.Event()
        atexit.register(self._ends.set)
        threading.Thread(target=self._beat, name="beats", daemon=True).start()

    def end(self) -> None:
        """Stop showing that this process lives."""
        self._ends.set()

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        found = torch.tensor(flags, dtype=torch.int32)
        with self._losing():
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in found.tolist()]

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place and on its device; return it."""
        with self._losing():
            dist.all_reduce(tensor, group=self.sums)
        return tensor

    def gather(self, tensor: Tensor, counts: list[int]) -> Tensor:
        """Return the rows of all processes one after the other, in every process."""
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in counts]
        with self._losing():
            dist.all_gather(found, padded, group=self.control)
        return torch.cat([rows[:n] for rows, n in zip(found, counts, strict=True)])

    def from_first(self, make: Callable[[], bytes], what: str) -> bytes:
        """Return in every process what the first one makes, however long that takes."""
        content = b""
        with self.in_turn(what):
            if self.is_first:
                content = make()
        n_bytes = torch.tensor([len(content)])
        with self._losing():
            dist.broadcast(n_bytes, 0, group=self.control)
            sent = torch.zeros(int(n_bytes), dtype=torch.uint8)
            if self.is_first:
                sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            dist.broadcast(sent, 0, group=self.control)
        return sent.numpy().tobytes()

    def check_same(self, content: str, what: str) -> None:
        """Raise InputError unless all processes have the same content."""
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
        mine = torch.tensor(list(digest), dtype=torch.uint8)[None]
        found = self.gather(mine, [1] * self.size)
        if not bool((found == found[0]).all()):
            raise InputError(
                f"the {self.size} processes have different {what}: start all of them with the same "
                "command, on machines that see the same files"
            )

    def meet(self, what: str) -> None:
        """Wait until all processes are here; see Ranks."""
        with self.in_turn(what, all_at_once=True):
            pass

    @contextmanager
    def in_turn(self, what: str, *, all_at_once: bool = False) -> Iterator[None]:
        """Run a block in one process after the other; see Ranks."""
        self._n_turns += 1
        turn = f"turn{self._n_turns}"
        leader = 0 if launch.local_rank() == 0 else self.rank - launch.local_rank()
        if not (self.is_first or all_at_once):
            self._wait(turn, f"done{leader}", [leader], what)
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # a store that is gone tells the others as well
                self.is_first_to_say()  # it is said by who handles the exception
                self._store.set(f"{turn}/failed", "1")
            raise
        with self._losing():
            self._store.set(f"{turn}/done{self.rank}", "1")
        # The first one watches all, and they watch it: each goes on when all are through.
        if self.is_first:
            for rank in range(1, self.size):
                self._wait(turn, f"done{rank}", list(range(rank, self.size)), what)
            with self._losing():
                self._store.set(f"{turn}/go", "1")
        else:
            self._wait(turn, "go", [0], what)

    @contextmanager
    def lost_at(self, place: Callable[[], object], then: str) -> Iterator[None]:
        """Say of a process that is lost in a block where that was; see Ranks."""
        try:
            with self._losing():
                yield
        except RankLostError as error:
            raise RankLostError(f"{place()}: {error}; {then}") from error

    def is_first_to_say(self) -> bool:
        """Say whether no other process has said yet that the training failed."""
        if self._is_first_to_say is None:
            try:
                self._is_first_to_say = self._store.add("said", 1) == 1
            except RuntimeError:  # the store is gone with the process that held it
                self._is_first_to_say = True
        return self._is_first_to_say

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Turn what a process group raises when a process is lost into RankLostError."""
        try:
            yield
        except RuntimeError as error:
            if not is_of_lost_rank(error):
                raise
            first_line = str(error).partition("\n")[0]
            raise RankLostError(f"{_LOST.format(self.timeout_s)} ({first_line})") from error

    def _wait(self, turn: str, key: str, watched: list[int], what: str) -> None:
        """Wait for a key of a turn, as long as the watched processes live."""
        pause = 0.01
        now = time.monotonic()
        heard = dict.fromkeys(watched, (-1, now))
        with self._losing():
            while not self._store.check([f"{turn}/{key}"]):
                if self._store.check([f"{turn}/failed"]):
                    raise RankLostError(f"{what}: another process of this training has failed")
                for rank, (n_before, heard_at) in heard.items():
                    n_beats, now = self._store.add(f"beats{rank}", 0), time.monotonic()
                    if n_beats != n_before:
                        heard[rank] = n_beats, now
                    elif now - heard_at > (_LATE_S if self.is_signalled() else self.timeout_s):
                        lost = f"rank {rank} has not been heard of for {now - heard_at:.0f} s"
                        raise RankLostError(f"{what}: {lost}")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_SLEEP_S)

    def _beat(self) -> None:
        """Show that this process lives, until it ends; in a thread."""
        while not self._ends.wait(min(_BEAT_S, self.timeout_s / 8)):
            try:
                self._store.add(f"beats{self.rank}", 1)
            except RuntimeError:  # the store is gone: the others have noticed
                return


def is_of_lost_rank(error: BaseException) -> bool:
    """Tell what process groups raise when a process is lost from other errors."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "Gloo" in text or "NCCL" in text
