"""Ends a process that waits in native code for what will not come: a kernel that never returns, ranks nobody starts.

The ending is hard (`os._exit`), because the main thread cannot be asked to. The supervisor or torchrun starts the ranks
again, and a point that hung, which the journal names, gets a row with status ``timeout``.
"""

import os
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from cluster_specs.errors import UserError
from profiler.errors import TRY_AGAIN_EXIT_CODE
from profiler.journal import Journal

_LAUNCHER_EVERY_S: Final = 1.0


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
        os._exit(TRY_AGAIN_EXIT_CODE)


class LauncherWatch:
    """Ends the process when its launcher has died, None for one that nobody knows; while no point is in flight.

    Ranks that wait for each other to start would wait for minutes: whom they wait for may have died with the launcher.
    """

    def __init__(self, launcher_pid: int | None) -> None:
        self._launcher_pid = launcher_pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._launcher_pid is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_LAUNCHER_EVERY_S):
            if os.getppid() != self._launcher_pid:
                sys.stderr.write("the launcher has ended: ending this rank, which waits for others\n")
                sys.stderr.flush()
                os._exit(TRY_AGAIN_EXIT_CODE)
