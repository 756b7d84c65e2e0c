"""How a run in a worker thread is ended from outside: it looks at its pool's flag between two slices.

The interpreter delivers Ctrl-C to the main thread alone. Compiled runs come back to the interpreter every few
milliseconds (``State.budget``), which is when the main thread sees the signal, and a worker the flag.
"""

from contextvars import ContextVar
from threading import Event
from typing import Final

_STOP: Final[ContextVar[Event | None]] = ContextVar("stop", default=None)


def obey(stop: Event) -> None:
    """Let runs of this thread end with ``CancelledError`` once ``stop`` is set."""
    _STOP.set(stop)


def check_stop() -> None:
    """Raise ``CancelledError`` if this thread has been told to stop."""
    stop = _STOP.get()
    if stop is not None and stop.is_set():
        from concurrent.futures import CancelledError  # the rest of that package is of no use to one run

        raise CancelledError
