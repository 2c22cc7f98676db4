"""Checkpoints of a training that several processes share: what each has of its own, together.

A checkpoint looks like that of one process: the LSTMs' state has the rows of all processes, in the
order of the streams. Beside it stand the random generators of the other processes. So any number
of processes, one too, can go on with it: the rows are shared out anew. With another number than
before, several draw their generators anew from the seed; one goes on with that of the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ulmfit_fast.text.batches import share_of
from ulmfit_fast.training.keeper import Capture, Place, StageState
from ulmfit_fast.training.ranks import Ranks
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.snapshot import Snapshot
from ulmfit_fast.training.stage_keeper import StageKeeper

_WRITES = "writing a checkpoint"


class RankedKeeper(StageKeeper):
    """Writes checkpoints of one stage in the first process, and has all processes decide alike.

    Args:
        checkpoints: where to.
        frame: what stands in every checkpoint of the stage, and its tokenizer.
        state: what the stage goes on from; None if it begins.
        ranks: the processes.
        n_rows: rows of a batch of all processes.
        seed: of the stage.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        frame: Snapshot,
        state: StageState | None,
        *,
        ranks: Ranks,
        n_rows: int,
        seed: int,
    ) -> None:
        super().__init__(checkpoints, frame, state)
        self._ranks = ranks
        self._n_rows = n_rows
        self._seed = seed

    def begun(self) -> StageState | None:
        """Return what this process goes on from; None if the stage begins."""
        state, self._state = super().begun(), None  # the rows of all, and more: not needed again
        return self._own(state)

    def is_asked_to_stop(self) -> bool:
        """Say whether any process is asked to."""
        return self._ranks.any(super().is_asked_to_stop())[0]

    def keep(self, place: Place, capture: Capture, *, at_once: bool = False) -> None:
        """Write a checkpoint if it is due or at once; raise TrainingStopped if asked to stop."""
        due = at_once or (self._ranks.is_first and self._checkpoints.is_due())
        is_asked, is_due = self._ranks.any(super().is_asked_to_stop(), due)
        if is_asked:
            self.stop(place, capture)
        elif is_due:
            captured = self._captured(capture)
            with self._ranks.in_turn(_WRITES):
                if self._ranks.is_first:
                    self._try_to_save(place, captured)

    def stop(self, place: Place, capture: Capture) -> None:
        """Write a checkpoint and raise TrainingStopped; TrainingError if the disk refuses."""
        captured = self._captured(capture)
        with self._ranks.in_turn(_WRITES):
            self._save(place, captured)
        raise self._checkpoints.stopped(str(place))

    def go_back(self) -> StageState | None:
        """Return the newest state of this stage, or the one before where that did not help."""
        with self._ranks.in_turn("going back to a checkpoint"):
            state = super().go_back()
        where = None if state is None else state.values["progress"]
        self._ranks.check_same(json.dumps(where, sort_keys=True), "checkpoints")
        return self._own(state)

    def warn(self, message: str) -> None:
        """Tell the user, in the first process."""
        if self._ranks.is_first:
            super().warn(message)

    def _captured(self, capture: Capture) -> Capture:
        """Return what gives the state of all processes, or raises if one could not take its own."""
        failure: MemoryError | RuntimeError | None = None
        try:
            state = capture()
        except (MemoryError, RuntimeError) as error:  # the others would wait for it in vain
            failure = error
        if self._ranks.any(failure is not None)[0]:
            refusal = failure or MemoryError("out of memory in another process")

            def refuse() -> StageState:
                raise refusal

            return refuse
        whole = self._whole(state)
        return lambda: whole

    def _whole(self, state: StageState) -> StageState:
        """Return the state of all processes."""
        ranks, tensors = self._ranks, dict(state.tensors)
        counts = [len(share_of(self._n_rows, rank, ranks.size)) for rank in range(ranks.size)]
        for name, tensor in state.tensors.items():
            if name.startswith("lstm/"):
                tensors[name] = ranks.gather(tensor, counts)
            elif name.startswith("generator/"):
                everyones = ranks.gather(tensor[None], [1] * ranks.size)
                tensors[name] = everyones[0]
                tensors |= {f"ranks/{r}/{name}": everyones[r] for r in range(1, ranks.size)}
        return StageState({**state.values, "ranks": ranks.size}, tensors)

    def _own(self, state: StageState | None) -> StageState | None:
        """Return what of the state of all processes is this one's."""
        if state is None:
            return None
        rank, size = self._ranks.rank, self._ranks.size
        is_same = state.values.get("ranks", 1) == size
        tensors: dict[str, Tensor] = {}
        for name, tensor in state.tensors.items():
            if name.startswith("lstm/"):
                rows = share_of(len(tensor), rank, size)
                tensors[name] = tensor[rows.start : rows.stop].clone()
            elif name == "generator/cuda" and not torch.cuda.is_available():
                continue  # begun on GPUs, going on without
            elif name.startswith("generator/") and not is_same:
                step = state.values["progress"]["step"]
                device = "cpu" if name == "generator/cpu" else "cuda"
                generator = torch.Generator(device).manual_seed(
                    mixed_seed(self._seed, size, rank, step)
                )
                tensors[name] = generator.get_state()
            elif name.startswith("generator/"):
                tensors[name] = state.tensors.get(f"ranks/{rank}/{name}", tensor)
            elif not name.startswith("ranks/"):
                tensors[name] = tensor
        state.tensors.clear()  # each process would keep what is the others'
        return StageState(state.values, tensors)


def keeper_of(
    checkpoints: Checkpoints, frame: Snapshot, state: StageState | None, ranks: Ranks, n_rows: int
) -> StageKeeper:
    """Return the keeper of a stage in one process, or in each of several.

    Args:
        checkpoints: where to.
        frame: what stands in every checkpoint of the stage, and its tokenizer.
        state: what the stage goes on from; None if it begins.
        ranks: the processes.
        n_rows: rows of a batch of all processes.
    """
    if ranks.size == 1:
        return StageKeeper(checkpoints, frame, state)
    seed = frame.values["train"]["seed"]
    return RankedKeeper(checkpoints, frame, state, ranks=ranks, n_rows=n_rows, seed=seed)


def mixed_seed(*numbers: int) -> int:
    """Return a seed made of numbers, in [0, 2^63)."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_of_rank(seed: int, ranks: Ranks) -> None:
    """Have every process but the first draw masks of its own, once the model is made."""
    if not ranks.is_first:
        torch.manual_seed(mixed_seed(seed, ranks.size, ranks.rank))


def say_other_number(state: StageState | None, ranks: Ranks, checkpoints: Checkpoints) -> None:
    """Say if a stage goes on in another number of processes than before."""
    before = ranks.size if state is None else state.values.get("ranks", 1)
    if before != ranks.size and ranks.is_first:
        checkpoints.warn(
            f"begun by {count(before)}, going on in {count(ranks.size)}: batches stay as they "
            "were, all rows together; masks are others"
        )


def count(n: int) -> str:
    """Return a number of processes in words."""
    return f"{n} process" if n == 1 else f"{n} processes"


@contextmanager
def together(
    ranks: Ranks, place: Callable[[], object], model: nn.Module, checkpoints: Checkpoints | None
) -> Iterator[None]:
    """Train a model in several processes in a with block; nothing is done for one process.

    Signals are held back all the time: what one process did on the spot, the others would wait for.
    """
    if ranks.size == 1:
        yield
        return
    from ulmfit_fast.training.ranked_steps import norms_over_ranks  # may be missing in torch

    then = "train again" if checkpoints is None else f"go on with: {checkpoints.how_to_go_on}"
    with ExitStack() as stack:
        if checkpoints is not None:
            stop = checkpoints.stop
            stack.enter_context(stop.held_back())
            ranks.is_signalled = lambda: stop.signal is not None
            stack.callback(setattr, ranks, "is_signalled", lambda: False)
        stack.enter_context(ranks.lost_at(place, then))
        stack.enter_context(norms_over_ranks(model, ranks))
        yield
