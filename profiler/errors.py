"""The one error a person's profiling request can cause."""


class ProfilerError(ValueError):
    """A machine, manifest, folder or option that cannot be profiled with; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
