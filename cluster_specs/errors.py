"""The error that a person's input can cause, in every room, and the exit code it ends the command with."""


class UserError(ValueError):
    """A file, flag or value that cannot be used; ``hint`` says what to do next.

    The command line prints message and hint and ends with ``exit_code``: 2 for input, other numbers in subclasses.
    """

    exit_code: int = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class OutputError(UserError):
    """A file that cannot be written where the user wants it."""

    exit_code = 1
