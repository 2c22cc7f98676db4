"""The exceptions whose message is meant for the user: what is wrong and what to do, in one line."""


def one_line(text: object, n_characters: int = 200) -> str:
    """Return a stranger's text as it may stand in such a message: no control characters, short."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: n_characters + 1])
    return shown if len(shown) <= n_characters else shown[: n_characters - 3] + "..."


class InputError(ValueError):
    """Input that cannot be used: one line that says what is wrong, where, and what to do.

    The command line prints it as it is and exits with status 2.
    """


class TrainingError(RuntimeError):
    """Training that cannot go on, such as a loss that is not finite: one line, as of InputError."""


class RankLostError(TrainingError):
    """Training that cannot go on because another of its processes has ended, failed or hangs."""


class TrainingStopped(KeyboardInterrupt):
    """Training that was asked to stop, by a signal or a time limit, and can go on later.

    A KeyboardInterrupt, so that code which handles every Exception does not go on training.

    Args:
        message: one line, as of InputError, and how to go on.
        signal: number of the signal; None for a time limit.
    """

    def __init__(self, message: str, signal: int | None = None) -> None:
        super().__init__(message)
        self.signal = signal
