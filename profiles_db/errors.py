"""The one error a profile database can cause."""


class ProfilesError(ValueError):
    """A measurement file, manifest or store that cannot be used; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
