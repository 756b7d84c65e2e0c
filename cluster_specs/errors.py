"""The one error a person's spec can cause."""


class SpecError(ValueError):
    """A device or cluster file that cannot be used; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
