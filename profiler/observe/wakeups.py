"""When the event loop was woken: how late the client itself was when it took a time.

A selector that had to wait returns at the moment the kernel had something for this process. What the loop does after
that, before it reaches the chunk in question, delays the time it takes of it. So for each chunk

    0 <= lag <= time taken of the chunk - last return of a select that waited

and the right-hand side is kept: an upper bound, without a probe that would itself be late. What it cannot see is a
process that the operating system lets wait; the sending times of an open loop show that.
"""

import asyncio
import selectors
import time


class WakeupSelector(selectors.DefaultSelector):
    """The platform's selector; ``woken_s`` (perf_counter) is when it last returned from waiting."""

    woken_s: float = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait as the platform's does; a poll without waiting leaves ``woken_s`` alone."""
        events = super().select(timeout)
        if timeout is None or timeout > 0:
            self.woken_s = time.perf_counter()
        return events


class WakeupLoop(asyncio.SelectorEventLoop):
    """An event loop that knows when it was last woken."""

    def __init__(self) -> None:
        self.wakeups = WakeupSelector()
        super().__init__(self.wakeups)
