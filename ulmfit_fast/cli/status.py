"""The exit statuses of `ulmfit-fast`, all of them, and what is said of a defect of its own."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

EXIT_TRAINING = 1  # training that cannot go on, such as a loss that is not finite
EXIT_FINDINGS = 1  # check has errors or warnings
EXIT_INPUT = 2  # what the user can mend: options, files, models, a full disk or memory
EXIT_ENVIRONMENT = 3  # doctor found something to mend
EXIT_DEFECT = 70  # a defect of ulmfit-fast; EX_SOFTWARE of sysexits.h
EXIT_TIME_LIMIT = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
EXIT_INTERRUPTED = 130  # Ctrl-C: 128 and the number of SIGINT
EXIT_PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended

#: For --help of the group.
STATUSES = (
    "Exit status: 0 done, 1 training cannot go on or check found something, 2 something to mend in "
    "options, files or on the machine, 3 doctor found something to mend, 70 a defect of "
    "ulmfit-fast, 75 --time-limit was reached, 130 stopped by Ctrl-C, 138 by SIGUSR1, 143 by "
    "SIGTERM, 141 the reader of a pipe went away."
)


def say_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Write a warning of a library in one line, without its place; a warnings.showwarning."""
    from ulmfit_fast.errors import one_line

    sys.stderr.write(f"warning: {one_line(' '.join(str(message).split()), 1_000)}\n")


def report_defect(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say in one line that the program itself is wrong, and end it; an excepthook.

    With --debug the traceback comes before the line.

    Raises:
        SystemExit: always, with EXIT_DEFECT.
    """
    from ulmfit_fast.errors import one_line

    if "--debug" in sys.argv:
        traceback.print_exception(kind, error, trace)
        hint = "with the traceback above"
    else:
        hint = "with the traceback, which --debug shows"
    message = one_line(" ".join(str(error).split()))
    sys.stderr.write(
        f"error: internal error, {kind.__name__}{f': {message}' if message else ''}: this is a "
        f"defect of ulmfit-fast, not of your data; please report it {hint}\n"
    )
    raise SystemExit(EXIT_DEFECT)
