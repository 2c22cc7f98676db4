"""A folder that one training at a time writes to.

The system takes the lock back from a process that is dead, so a lock that a kill left is free.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ulmfit_fast.errors import InputError

LOCK = ".lock"
#: Of Unix, and of Windows; None where the system has the other one.
_fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None
_msvcrt: Any = import_module("msvcrt") if find_spec("msvcrt") else None
#: What file systems answer that cannot lock, such as some of a network.
_CANNOT = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FolderLock:
    """The lock of a folder that several trainers may write to, one after the other.

    Args:
        folder: made when it is first held.
        newest: returns the name of the newest entry; "" without any.
    """

    def __init__(self, folder: Path, newest: Callable[[], str]) -> None:
        self._folder, self._newest = folder, newest
        self._seen: str | None = None
        self._is_held = False

    def look(self) -> None:
        """Take what stands there for what this trainer goes on from."""
        self._seen = self._newest()

    @contextmanager
    def held(self, check: Callable[[], None], how: str) -> Iterator[None]:
        """Keep others out in a with block; nobody, where nothing can be written.

        Args:
            check: called when it is held for the first time.
            how: to go on, for the message.

        Raises:
            InputError: another trainer is at it, or has been since this one was.
        """
        if self._is_held:
            yield
            return
        with ExitStack() as stack:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self._folder))
                self._is_held = True
            except OSError:
                pass  # the first checkpoint will say it
            try:
                if self._is_held:
                    self._check(check, how)
                try:
                    yield
                finally:
                    self.look()
            finally:
                self._is_held = False

    def _check(self, check: Callable[[], None], how: str) -> None:
        if self._seen is None:
            check()
        elif self._newest() > self._seen:
            raise InputError(
                f"{self._folder}: another trainer has written checkpoints there since; go on with: "
                f"{how}"
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes, and other trainers of this one, out of a folder.

    Where the file system cannot lock, nobody is kept out.

    Args:
        folder: is there.

    Raises:
        InputError: somebody else has it.
        OSError: nothing can be written there.
    """
    path = folder / LOCK
    descriptor = _open_locked(path)
    try:
        yield
    finally:
        try:
            if _is_at(descriptor, path) and _msvcrt is None:  # Windows removes no file that is open
                path.unlink()
        finally:
            os.close(descriptor)


def _open_locked(path: Path) -> int:
    """Return a descriptor that holds the lock of the file that stands at a path now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            _take(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise InputError(
                    f"{path.parent}: another training is still at it; wait for it, or give another "
                    "folder"
                ) from error
            raise
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # removed by the one that held it


def _take(descriptor: int) -> None:
    """Take the lock of a file at once, or raise OSError."""
    try:
        if _fcntl is not None:
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        elif _msvcrt is not None:
            _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def _is_at(descriptor: int, path: Path) -> bool:
    """Say whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
