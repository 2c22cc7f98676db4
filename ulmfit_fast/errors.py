"""The one exception that means: the user can fix this, and the message says how."""


class InputError(ValueError):
    """Input that cannot be used: one line that says what is wrong, where, and what to do.

    The command line prints it as it is and exits with status 2.
    """
