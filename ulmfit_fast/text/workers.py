"""Work on blocks of texts in several processes, in order; in this one where there is little to do.

The processes are programs of their own that talk over pipes (`worker.py`), not forks and not
multiprocessing's: a fork would copy locks that other threads hold, and what multiprocessing starts
imports the caller's main module. So any script, notebook or embedding program may call this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from queue import SimpleQueue
from typing import BinaryIO, TypeVar, cast

from .messages import pack_texts, read_message, write_message

# Characters of a block of texts: bounds memory; larger gains nothing.
_CHARS_AT_A_TIME = 1_000_000
# Characters from which on processes are started: to start them takes as long as a third of these.
_CHARS_FOR_PROCESSES = 4_000_000
_MOST_PROCESSES = 16

Answer = TypeVar("Answer")
Process = subprocess.Popen[bytes]


def work_on(
    texts: Iterable[str],
    here: Callable[[list[str]], Answer],
    there: tuple[Callable[[], bytes], Callable[[bytes], Answer]],
    processes: int | None = None,
) -> Iterator[Answer]:
    """Yield the answer for each block of texts, in their order.

    Args:
        texts: read as the answers are taken, some blocks ahead.
        here: answers a block in this process.
        there: makes what makes a worker give the same answers, called only where processes are
            used; and how to unpack an answer.
        processes: as for `n_processes`.
    """
    head, rest = _first_blocks(texts)
    n = n_processes(processes)
    is_program = getattr(sys, "frozen", False)  # there, the interpreter is the user's program
    workers = _start(n, there[0]()) if rest is not None and n > 1 and not is_program else []
    blocks = chain(head, rest or ())
    if workers:
        yield from map(there[1], _answers(workers, blocks))
    else:
        yield from map(here, blocks)


def n_processes(given: int | None) -> int:
    """Return how many processes to use: what is given, else the cores that this process may use.

    Processes that train together on one machine (LOCAL_WORLD_SIZE) share its cores.
    """
    if given is not None:
        return max(1, given)
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, min(_MOST_PROCESSES, cores // max(1, int(ranks) if ranks.isdecimal() else 1)))


def _blocks_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of about _CHARS_AT_A_TIME characters."""
    block: list[str] = []
    n_chars = 0
    for text in texts:
        block.append(text)
        n_chars += len(text)
        if n_chars >= _CHARS_AT_A_TIME:
            yield block
            block, n_chars = [], 0
    if block:
        yield block


def _first_blocks(texts: Iterable[str]) -> tuple[list[list[str]], Iterator[list[str]] | None]:
    """Return the first blocks, and those that follow if there is enough text for processes."""
    blocks = _blocks_of(texts)
    head: list[list[str]] = []
    n_chars = 0
    for block in blocks:
        head.append(block)
        n_chars += sum(map(len, block))
        if n_chars >= _CHARS_FOR_PROCESSES:
            return head, blocks
    return head, None


def _start(n: int, first_message: bytes) -> list[Process]:
    """Start workers and tell them what to do; none, with a warning, where one does not start.

    A worker is in a session of its own: a Ctrl-C of the terminal reaches this process alone, which
    then ends the workers.
    """
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    workers: list[Process] = []
    try:
        for _ in range(n):
            workers.append(
                subprocess.Popen(
                    [sys.executable or "python", "-P", "-m", "ulmfit_fast.text.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,
                )
            )
        for worker in workers:
            _tell(worker, first_message)
        for worker in workers:
            _hear(worker)
    except OSError as error:
        _stop(workers)
        warnings.warn(f"tokenizing in one process, as others do not start: {error}", stacklevel=2)
        return []
    except BaseException:
        _stop(workers)
        raise
    return workers


def _tell(worker: Process, message: bytes) -> None:
    stdin = cast(BinaryIO, worker.stdin)
    with suppress(BrokenPipeError):  # it is gone, as hearing its answer will say
        write_message(stdin, message)


def _hear(worker: Process) -> bytes:
    answer = read_message(cast(BinaryIO, worker.stdout))
    if answer is None:
        raise ChildProcessError(
            f"a process that tokenizes ended early (exit status {worker.wait()}): is there enough "
            "memory?"
        )
    return answer


def _stop(workers: Iterable[Process]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.wait()
        for pipe in (cast(BinaryIO, worker.stdin), cast(BinaryIO, worker.stdout)):
            with suppress(BrokenPipeError):  # what it did not read is of no use any more
                pipe.close()


def _answers(workers: list[Process], blocks: Iterable[list[str]]) -> Iterator[bytes]:
    """Yield the answers to blocks in order; two blocks a worker are under way at most."""
    idle: SimpleQueue[Process] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def ask(message: bytes) -> bytes:
        worker = idle.get()
        try:
            _tell(worker, message)
            return _hear(worker)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(len(workers), "tokenizing")
    pending: deque[Future[bytes]] = deque()
    try:
        for block in blocks:
            pending.append(threads.submit(ask, pack_texts(block)))
            if len(pending) >= 2 * len(workers):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        _stop(workers)
        threads.shutdown(cancel_futures=True)
