"""The processes that train together, and one that trains alone.

One process is `ALONE`, whose every method gives back what it was given: there is one path through
the training. `joining.py` makes several out of what torchrun has started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor


class Ranks:
    """One process that trains alone; base of several.

    Attributes:
        rank: number of this process.
        size: how many there are.
        launch_id: of the call of torchrun, the same after its restarts; empty where nobody knows.
        is_signalled: says whether this process was asked to end, as torchrun does with all others
            when one has died.
    """

    rank = 0
    size = 1
    launch_id = ""

    def __init__(self) -> None:
        self.is_signalled: Callable[[], bool] = lambda: False

    @property
    def is_first(self) -> bool:
        """Whether this process talks and writes for all."""
        return self.rank == 0

    def end(self) -> None:
        """Stop showing that this process lives."""

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        return list(flags)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place and on its device; return it."""
        return tensor

    def gather(self, tensor: Tensor, counts: list[int]) -> Tensor:
        """Return the rows of all processes one after the other, in every process.

        Args:
            tensor: on the CPU; shape [counts[rank], ...].
            counts: rows of each process.
        """
        return tensor

    def from_first(self, make: Callable[[], bytes], what: str) -> bytes:
        """Return in every process what the first one makes, however long that takes."""
        return make()

    def check_same(self, content: str, what: str) -> None:
        """Raise InputError unless all processes have the same content."""

    def is_first_to_say(self) -> bool:
        """Say whether no other process has said yet that the training failed."""
        return True

    def meet(self, what: str) -> None:
        """Wait until all processes are here, as long as they live.

        Args:
            what: they come from, for the message when one is lost.

        Raises:
            RankLostError: a process is lost.
        """

    @contextmanager
    def in_turn(self, what: str, *, all_at_once: bool = False) -> Iterator[None]:
        """Run a block in the first process, then in one of each other machine, then in the rest.

        It may take as long as it needs in processes that live, and nobody goes on before all are
        through. Where it raises, the processes after it do not run it.

        Args:
            what: is done, for the message when a process is lost.
            all_at_once: whether nobody waits before the block.

        Raises:
            RankLostError: a process is lost, or its block raised.
        """
        yield

    @contextmanager
    def lost_at(self, place: Callable[[], object], then: str) -> Iterator[None]:
        """Say of a process that is lost in a block where that was, and what to do.

        Args:
            place: returns where.
            then: what to do.

        Raises:
            RankLostError: a process is lost.
        """
        yield


ALONE = Ranks()
