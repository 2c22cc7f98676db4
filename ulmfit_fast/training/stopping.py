"""Signals and time limits: a training that is asked to stop finishes its step first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Ctrl-C; what a batch system sends before it kills; what Slurm's --signal sends on request, where
#: the system has it.
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if name in signal.Signals.__members__
)


class Interrupted(KeyboardInterrupt):
    """A request to stop that came while nothing held it back: it takes effect on the spot."""


class StopRequest:
    """Whether a training shall stop.

    The first signal is remembered while it is held back, and raises Interrupted elsewhere. The
    second one raises KeyboardInterrupt, and the third one ends the process as if nobody listened.

    Args:
        time_limit_s: seconds from now; None for no limit.

    Attributes:
        signal: the first that came; None before.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        self.signal: signal.Signals | None = None
        self._ends = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._n_holding = 0
        self._n_signals = 0
        self._listens = False

    def is_asked(self, saving_s: float = 0.0) -> bool:
        """Say whether to stop now.

        Args:
            saving_s: seconds that saving takes, which must fit into the time limit.
        """
        return self.signal is not None or (
            self._ends is not None and time.monotonic() + saving_s >= self._ends
        )

    def forget(self) -> None:
        """Forget signals that stopped a training before this one; the time limit stays."""
        self.signal = None
        self._n_signals = 0

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Remember a first signal in a with block, where it must not come between two lines."""
        self._n_holding += 1
        try:
            yield
        finally:
            self._n_holding -= 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals in a with block; only the main thread can, others leave them alone.

        One that is ignored stays so, as Ctrl-C is in what a script runs in the background.
        """
        if self._listens or threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._take) for number in heard}
        self._listens = True
        try:
            yield
        finally:
            self._listens = False
            for number, handler in before.items():
                # None: a handler that was not set from Python cannot be set back from it.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self._n_signals += 1
        if self._n_signals > 1:
            for each in SIGNALS:
                if signal.getsignal(each) == self._take:
                    signal.signal(each, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if not self._n_holding:
            raise Interrupted
