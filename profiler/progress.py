"""A line every five seconds while points are measured, also while one point takes longer than that.

The lines come from a thread that formats a few numbers: what is costly to tell (the plan's own words) is told to it
between rounds, never worked out while a kernel is timed.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from profiler.duration import format_duration
from profiler.planning.planner import Planner
from profiler.run import Run

_EVERY_S: Final = 5.0


class Progress:
    """Tells how far a plan is on the rank that has one, until the context ends; on other ranks it says nothing.

    ``wait`` sleeps for so many seconds and says whether to end; the default ends with the context.
    """

    def __init__(
        self, run: Run, planner: Planner | None, *, name: str = "", wait: Callable[[float], bool] | None = None
    ) -> None:
        self._run = run
        self._planner = planner
        self._name = name
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._started_s = run.spent_s
        self._words = ""
        self._left = 0
        self._before = 0  # points of earlier rounds
        self._in_round = 0

    def __enter__(self) -> Self:
        if self._planner is not None:
            self.end_round()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._planner is not None:
            self._thread.join()
            if self._before:
                self._run.talk(self.line())

    def reach(self, points: int) -> None:
        """So many points of the round are done."""
        self._in_round = points

    def end_round(self) -> None:
        """Ask the plan how far it is, now that it has learnt what the round measured."""
        if self._planner is not None:
            self._before += self._in_round
            self._in_round = 0
            self._words, self._left = self._planner.progress(), self._planner.remaining

    def line(self) -> str:
        """Time so far, the plan's own words, points since, and the time to the end at the present rate."""
        run, in_round = self._run, self._in_round
        line = f"[{format_duration(run.spent_s)}] {self._name}{self._words}"
        if in_round:
            line += f", {in_round} more measured"
        done, left = self._before + in_round, self._left - in_round
        if not done or not left:
            return line
        left_s = left * (run.spent_s - self._started_s) / done
        if run.left_s is not None:
            left_s = min(left_s, run.left_s)
        return f"{line}, at most {format_duration(left_s)} to go"

    def _tell(self) -> None:
        while not self._wait(_EVERY_S):
            self._run.talk(self.line())
