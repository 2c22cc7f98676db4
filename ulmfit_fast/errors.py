"""The exceptions whose message is meant for the user: what is wrong and what to do, in one line."""


class InputError(ValueError):
    """Input that cannot be used: one line that says what is wrong, where, and what to do.

    The command line prints it as it is and exits with status 2.
    """


class TrainingError(RuntimeError):
    """Training that cannot go on, such as a loss that is not finite: one line, as above."""
