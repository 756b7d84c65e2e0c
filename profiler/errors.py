"""What can end a profiling run: a person's request that cannot be met, or siblings or a device that are gone."""

from typing import Final

RENEW_EXIT_CODE: Final = 76


class ProfilerError(ValueError):
    """A machine, manifest, folder or option that cannot be profiled with; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RanksLost(ProfilerError):  # noqa: N818 - a verdict on the run
    """A rank stopped answering: this run cannot go on, the same command resumes it."""

    exit_code = 75  # EX_TEMPFAIL: try again


class DeviceLost(ProfilerError):  # noqa: N818 - a verdict on the process
    """This process can no longer use its device, a new one can; the point that did it has its row."""

    exit_code = RENEW_EXIT_CODE
