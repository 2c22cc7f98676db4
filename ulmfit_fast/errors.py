"""The exceptions whose message is meant for the user: what is wrong and what to do, in one line."""

#: Characters of a message; what is longer has lost its middle.
LONGEST_MESSAGE = 2000


def one_line(text: object, n_characters: int = 200) -> str:
    """Return a stranger's text as it may stand in such a message: no control characters, short."""
    shown = _printable(str(text)[: n_characters + 1])
    return shown if len(shown) <= n_characters else shown[: n_characters - 3] + "..."


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """Input that cannot be used: one line that says what is wrong, where, and what to do.

    The command line prints it as it is and exits with status 2. What files say may stand in it:
    control characters, half characters and line ends are escaped, and a long one loses its middle.
    """

    def __init__(self, message: object = "") -> None:
        """Take the message."""
        text = str(message)
        if len(text) > LONGEST_MESSAGE:
            text = f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 3 :]}"
        text = text if text.isprintable() else _printable(text)
        if len(text) > LONGEST_MESSAGE:  # what is escaped is longer
            text = f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 3 :]}"
        super().__init__(text)


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
