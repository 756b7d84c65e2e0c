"""Which ranks a run has lost, or that its device is gone: what can end a profiling run besides a person's request."""

from typing import Final

from cluster_specs.errors import UserError

RENEW_EXIT_CODE: Final = 76


class RanksLost(UserError):  # noqa: N818 - a verdict on the run
    """A rank stopped answering: this run cannot go on, the same command resumes it."""

    exit_code = 75  # EX_TEMPFAIL: try again


class DeviceLost(UserError):  # noqa: N818 - a verdict on the process
    """This process can no longer use its device, a new one can; the point that did it has its row."""

    exit_code = RENEW_EXIT_CODE
