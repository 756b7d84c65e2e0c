"""The state of one run on one rank: the other ranks, the journal, the clock, and whether it was asked to stop."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field
from types import FrameType
from typing import Any

from cluster_specs.lazy_dataclass import dataclass
from profiler.errors import LAUNCHER_LOST
from profiler.journal import Entry, Journal
from profiler.ledger import Ledger
from profiler.point import Point
from profiler.ranks import Ranks
from profiler.signals import listening
from profiler.watchdog import Watchdog

Row = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run did, for the summary; complete on rank 0 only."""

    device: str
    run_id: str
    measured: int = 0
    recovered: int = 0
    already: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped_by: str | None = None
    wall_s: float = 0.0
    is_fulfilled: bool = True
    drift_frac: float | None = None
    drift_points: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured, now or before, although nobody stopped the run and points were left."""
        has_rows = self.measured or self.already or self.recovered
        return bool(self.left_out) and not has_rows and self.stopped_by is None


class StopSignal:
    """SIGINT or SIGTERM asks for an end after the point in flight; a second one ends at once.

    One that the process was started to ignore asks for nothing. The end of the launcher, by default the process that
    started this one, asks for it too: nobody is left to look after the rank.
    """

    def __init__(self, launcher_pid: int | None = None) -> None:
        self._name: str | None = None
        self._parent_pid = launcher_pid or os.getppid()

    @property
    def name(self) -> str | None:
        """What asked for the end, None while nothing has."""
        return self._name or (LAUNCHER_LOST if os.getppid() != self._parent_pid else None)

    def follow(self, names: Iterable[str | None]) -> None:
        """End for what another rank has heard, unless this one has heard something itself."""
        self._name = self.name or next((name for name in names if name), None)

    def listening(self) -> AbstractContextManager[None]:
        """Take the signals over, and give them back at the end."""
        return listening(self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        if self._name not in {None, LAUNCHER_LOST}:
            raise KeyboardInterrupt
        self._name = signal.Signals(number).name


class Run:
    """One rank's run; ``ledger`` is None on every rank but the first, ``talk`` prints there alone."""

    def __init__(
        self,
        *,
        ranks: Ranks,
        journal: Journal,
        ledger: Ledger | None,
        outcome: Outcome,
        stop: StopSignal,
        started_s: float,
        budget_s: float | None,
        talk: Callable[[str], None],
    ) -> None:
        self.ranks = ranks
        self.journal = journal
        self.ledger = ledger
        self.outcome = outcome
        self.talk = talk
        self.stop = stop
        self._started_s = started_s
        self._budget_s = budget_s

    @property
    def spent_s(self) -> float:
        """Seconds since the process started on this run."""
        return time.monotonic() - self._started_s

    @property
    def left_s(self) -> float | None:
        """Seconds of the budget that are left, None without one."""
        return None if self._budget_s is None else max(self._budget_s - self.spent_s, 0.0)

    def spendable_s(self, share: float, ranks: int) -> float | None:
        """Seconds that so many ranks have together until this ``share`` of the budget is over, None without one."""
        return None if self._budget_s is None else max(self._budget_s * share - self.spent_s, 0.0) * ranks

    def is_over(self, share: float = 1.0) -> bool:
        """Whether to begin no further point: stopped, or this ``share`` of the budget is spent."""
        if self.stop.name is not None:
            return True
        return self._budget_s is not None and self.spent_s > self._budget_s * share

    @contextmanager
    def in_flight(self, point: Point, limit_s: float) -> Iterator[None]:
        """Mark ``point`` as being measured, and end the process should it hang for ``limit_s``."""
        self.journal.begin(point, self.outcome.run_id)
        with Watchdog(self.journal, limit_s):
            yield

    def entries(self, point: Point, rows: Iterable[Row]) -> list[Entry]:
        """Return rows as this run's journal entries."""
        return [Entry(family=point.family, run_id=self.outcome.run_id, row=row) for row in rows]

    def store(self, entries: Sequence[Entry]) -> None:
        """Store rows on rank 0, then let every rank forget its journal; all ranks call it together."""
        if self.ledger is not None:
            self.ledger.add(entries)
            self.outcome.measured += len(entries)
            for entry in entries:
                status = entry.row["status"]
                self.outcome.statuses[status] = self.outcome.statuses.get(status, 0) + 1
        self.ranks.collect(None)  # the rows are safe before anybody forgets one
        self.journal.clear()
