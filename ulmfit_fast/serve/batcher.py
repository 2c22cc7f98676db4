"""Requests that wait are joined to batches; one thread owns the model.

Everything but the two steps of the predictor happens in the event loop, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from ulmfit_fast.serve.settings import Settings
from ulmfit_fast.text.messages import Ids
from ulmfit_fast.training.evaluation import Prediction

# Texts of a request that a batch takes before it is another request's turn.
TEXTS_A_TURN = 8
# Characters that are turned into ids at a time: some 100 ms, in which no batch runs.
ENCODED_CHARACTERS = 1_000_000

_T = TypeVar("_T")


class QueueFullError(Exception):
    """So many requests wait that one more is refused."""


class BatchFailedError(Exception):
    """The model raised an error, which is in the log."""


class Model(Protocol):
    """What answers texts in two steps; called from one thread."""

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""

    def classify(self, ids: Sequence[Ids]) -> list[Prediction]:
        """Return the answer for each text."""


@dataclass(eq=False)
class _Job:
    """A request that waits.

    Attributes:
        texts: as sent.
        done: gets the answers.
        arrived: on the clock of time.monotonic.
        ids: of each text; empty until a batch is near.
        left: indices of texts that no batch has taken, the longest last; of equals the first last.
        found: answers so far, by index.
    """

    texts: Sequence[str]
    done: asyncio.Future[list[Prediction]]
    arrived: float = field(default_factory=time.monotonic)
    ids: list[Ids] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    found: dict[int, Prediction] = field(default_factory=dict)


class Batcher:
    """Joins requests to batches.

    Requests take turns of TEXTS_A_TURN texts, so that a large one does not hold up those behind it.
    A batch begins max_wait_ms after its oldest request came; what comes while the model works
    shares the next one.

    Args:
        model: what answers; only the batcher's thread calls it.
        settings: sizes of the queue and of batches.
        on_error: told of every error of the model.

    Attributes:
        n_texts: answered so far.
        n_batches: so far.
    """

    def __init__(
        self, model: Model, settings: Settings, on_error: Callable[[BaseException], None]
    ) -> None:
        self.n_texts = 0
        self.n_batches = 0
        self._model = model
        self._settings = settings
        self._on_error = on_error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._jobs: deque[_Job] = deque()  # with texts that no batch has taken
        self._n_waiting = 0
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def n_waiting(self) -> int:
        """Requests without an answer."""
        return self._n_waiting

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Answer one text, so that kernels are ready, and begin to wait for requests."""
        ids = await self._in_thread(partial(self._model.encode, ["ready"]))
        await self._in_thread(partial(self._model.classify, ids))
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the thread, once it has ended the batch at hand."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._thread.shutdown(cancel_futures=True)

    async def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the answers of a request, in the order of its texts.

        A request that is given up (its task cancelled) leaves the queue.

        Raises:
            QueueFullError: max_waiting requests wait already.
            BatchFailedError: the model raised an error.
        """
        if self._n_waiting >= self._settings.max_waiting:
            raise QueueFullError
        job = _Job(texts, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._n_waiting += 1
        self._came.set()
        try:
            return await job.done
        finally:
            self._n_waiting -= 1
            job.left.clear()
            if job in self._jobs:
                self._jobs.remove(job)

    async def _run(self) -> None:
        while True:
            while not self._jobs:
                self._came.clear()
                await self._came.wait()
            until = self._jobs[0].arrived + self._settings.max_wait_ms / 1_000
            await asyncio.sleep(max(0.0, until - time.monotonic()))
            await self._encode()
            batch = self._take()
            if batch:
                await self._classify(batch)

    async def _encode(self) -> None:
        """Make the ids of requests that came since, the oldest first."""
        jobs: list[_Job] = []
        n_characters = 0
        for job in self._jobs:
            if job.ids:
                continue
            n_characters += sum(map(len, job.texts))
            if jobs and n_characters > ENCODED_CHARACTERS:
                break
            jobs.append(job)
        if not jobs:
            return
        texts = [text for job in jobs for text in job.texts]
        ids = await self._work(jobs, partial(self._model.encode, texts))
        if ids is None:
            return
        place = 0
        for job in jobs:
            job.ids = ids[place : place + len(job.texts)]
            place += len(job.texts)
            if not job.done.done():
                job.left = sorted(range(len(job.ids)), key=lambda i: (len(job.ids[i]), -i))

    def _take(self) -> list[tuple[_Job, int]]:
        """Take the texts of the next batch in turns; requests whose turn it was go to the end."""
        batch: list[tuple[_Job, int]] = []
        n_tokens = 0
        waiting = [job for job in self._jobs if job.left]
        while waiting:
            for job in waiting:
                for i in job.left[: -TEXTS_A_TURN - 1 : -1]:
                    n_tokens += len(job.ids[i])
                    if batch and n_tokens > self._settings.max_batch_tokens:
                        return batch
                    batch.append((job, i))
                    job.left.pop()
                self._jobs.remove(job)
                if job.left:
                    self._jobs.append(job)
            waiting = [job for job in waiting if job.left]
        return batch

    async def _classify(self, batch: Sequence[tuple[_Job, int]]) -> None:
        ids = [job.ids[i] for job, i in batch]
        jobs = list(dict.fromkeys(job for job, _ in batch))
        found = await self._work(jobs, partial(self._model.classify, ids))
        if found is None:
            return
        self.n_batches += 1
        self.n_texts += len(batch)
        for (job, i), prediction in zip(batch, found, strict=True):
            job.found[i] = prediction
        for job in jobs:
            if len(job.found) == len(job.texts) and not job.done.done():
                job.done.set_result([job.found[i] for i in range(len(job.texts))])

    async def _work(self, jobs: Sequence[_Job], work: Callable[[], _T]) -> _T | None:
        """Run work for jobs in the thread; an error is theirs, and the others' turn comes."""
        running = asyncio.ensure_future(self._in_thread(work))
        await asyncio.wait([running])
        error = running.exception()
        if error is None:
            return running.result()
        self._on_error(error)
        for job in jobs:
            job.left.clear()
            if job in self._jobs:
                self._jobs.remove(job)
            if not job.done.done():
                job.done.set_exception(BatchFailedError())
        return None

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
