"""How far a long job is, on stderr: one line that rewrites itself on a terminal, one every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Final

import click

# By whether stderr is a terminal: when the first word is said (a short job needs none), and how often then.
_SILENT_S: Final = {True: 2.0, False: 10.0}
_EVERY_S: Final = {True: 0.1, False: 10.0}


class Progress:
    """Called with (finished, total) whenever an item is done; says the time left at the rate so far.

    ``known`` items were done by an earlier run: they come at once, and tell nothing of the rate.
    """

    def __init__(self, noun: str, *, known: int = 0, now: Callable[[], float] = time.monotonic) -> None:
        self._noun = noun
        self._known = known
        self._now = now
        self._started_s = now()
        self._said_s: float | None = None
        self._rewrites = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Say how far the job is, where there is something to say."""
        now_s = self._now()
        spent_s = now_s - self._started_s
        is_last = done == total
        if self._said_s is None:
            if is_last or spent_s < _SILENT_S[self._rewrites]:
                return
        elif not is_last and now_s - self._said_s < _EVERY_S[self._rewrites]:
            return
        self._said_s = now_s
        line = f"{done:,} of {total:,} {self._noun}s"
        new = done - self._known
        if not is_last and new > 0:
            line += f", {time_left(spent_s * (total - done) / new)} to go"
        if self._rewrites:
            click.echo(f"\r{line:<60}", nl=is_last, err=True)
        else:
            click.echo(line, err=True)


def time_left(seconds: float) -> str:
    """Format a time to wait: nobody needs it to more than two units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
