"""Programs in a terminal of a given width, what they write there, and keys pressed at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
PROGRAM = "from ulmfit_fast.cli import main; main(prog_name='ulmfit-fast')"
PATIENCE_S = 60.0  # a busy machine


class Terminal:
    """A program whose input, output and errors are a terminal.

    Args:
        command: program and arguments.
        columns: width.
        stdout: a descriptor in place of the terminal; None is the terminal.
        more: of the environment.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        stdout: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        self.resize(columns)
        hidden = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs if stdout is None else stdout, stderr=theirs,
            env=environment | {"TERM": "xterm-256color"} | dict(more or {}), close_fds=True,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read_until(self, pattern: str, start: int = 0) -> str:
        """Read until what was shown from `start` on has a pattern; return everything shown."""
        ends = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.shown[start:]):
            assert time.monotonic() < ends, f"no {pattern!r} in {self.shown!r}"
            if not self._read(0.2) and self.process.poll() is not None:
                raise AssertionError(f"ended without {pattern!r}: {self.shown!r}")
        return self.shown

    def finish(self) -> tuple[int, str]:
        """Return the exit status and everything shown."""
        ends = time.monotonic() + PATIENCE_S
        while self._read(0.2) or self.process.poll() is None:
            assert time.monotonic() < ends, self.shown
        os.close(self._ours)
        return self.process.wait(), self.shown

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.finish()

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            block = os.read(self._ours, 65536)
        except OSError:  # Linux says so of a terminal whose other side is closed
            return False
        self.shown += block.decode(errors="replace")
        return bool(block)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def cli(*arguments: str) -> list[str]:
    return [*python(PROGRAM), *arguments]
