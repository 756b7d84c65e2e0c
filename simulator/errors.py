"""Errors a user of the simulator can cause, and the exit codes they end in."""

from typing import Final

EXIT_INFEASIBLE: Final = 3  # every plan was rejected


class InputError(ValueError):
    """A config, trace or plan that cannot be used; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
