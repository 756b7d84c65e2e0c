"""Which ranks a run has lost, or that its device is gone: what can end a profiling run besides a person's request."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cluster_specs.errors import UserError

RENEW_EXIT_CODE: Final = 76
TRY_AGAIN_EXIT_CODE: Final = 75  # EX_TEMPFAIL
# What stops a run of which one launcher has ended without ending its ranks.
LAUNCHER_LOST: Final = "the end of a launcher"


class RanksLost(UserError):  # noqa: N818 - a verdict on the run
    """A rank stopped answering: this run cannot go on, the same command resumes it."""

    exit_code = TRY_AGAIN_EXIT_CODE


@contextmanager
def siblings_answer(otherwise: str = "a rank stopped answering") -> Iterator[None]:
    """Turn the complaint of an exchange, or of the store that ranks meet in, about its other end into ``RanksLost``."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition("] ")[2]  # without the place in gloo's sources
        raise RanksLost(
            f"{otherwise}: {reason}",
            hint="look for the first error of the other ranks; the same command resumes",
        ) from error


class DeviceLost(UserError):  # noqa: N818 - a verdict on the process
    """This process can no longer use its device, a new one can; the point that did it has its row."""

    exit_code = RENEW_EXIT_CODE
