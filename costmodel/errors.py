"""The one error a cost model can cause."""


class CostModelError(ValueError):
    """A fitted file that cannot be used or a query no policy allows; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
