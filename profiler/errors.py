"""The one error a person measuring a machine can cause."""


class ProfilerError(ValueError):
    """A manifest, option, output folder or machine that cannot be used; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
