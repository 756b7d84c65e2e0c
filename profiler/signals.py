"""Which signals a run listens to: those that ask it to end, save one that it was started to ignore.

A shell starts a background command of a script with SIGINT ignored, `nohup` one with SIGHUP: what is meant for another
program, or for the terminal, then does not end this one. A handler of our own would undo that.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def listening(hear: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``hear`` at SIGINT and SIGTERM unless they are ignored; give both back at the end."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
