"""Ends a process whose point has hung, after saying so in its journal: a kernel that never returns cannot be asked to.

The ending is hard (`os._exit`), because the main thread sits in native code. The supervisor or torchrun starts the
ranks again, and the point gets a row with status ``timeout``.
"""

import os
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from cluster_specs.errors import UserError
from profiler.journal import Journal

HUNG_EXIT_CODE: Final = 75  # EX_TEMPFAIL: try again


class Watchdog:
    """Arms a deadline around each point; ``limit_s`` is far above what a point may take by itself."""

    def __init__(self, journal: Journal, limit_s: float) -> None:
        self._journal = journal
        self._limit_s = limit_s
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self._timer = threading.Timer(self._limit_s, self._end)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()

    def _end(self) -> None:
        with suppress(UserError):  # a full disk must not keep the process
            self._journal.hang()
        sys.stderr.write(f"a point has hung for {self._limit_s:g} s: ending this process; the same command goes on\n")
        sys.stderr.flush()
        os._exit(HUNG_EXIT_CODE)
