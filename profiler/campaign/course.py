"""How far a campaign is and how long each stage may still take, kept on disk, so that no stage costs the later ones.

One clock runs for the call (`--slice`), one for all calls (`--total`), one for the stage in flight (its cap, over all
its starts). A stage that hangs past its time ends its process, one whose process keeps dying is given up: both leave
their sentence in the state, and the next process goes on with the next stage. Processes of one call have one parent and
one monotonic clock, so that the time of one that died is counted too.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import read_document
from cluster_specs.files.whole import make_folder, write_text
from profiler.campaign.stage_list import Stage
from profiler.duration import format_duration
from profiler.errors import RENEW_EXIT_CODE

# Time for the last point, the summary and the interpreter's end, and its share of a short slice.
_MARGIN_S: Final = 20.0
_MARGIN_SHARE: Final = 0.1
# What a stage may take beyond its time: the point in flight, on a CPU that others may be using too.
GRACE_S: Final = {"cuda": 15.0, "cpu": 60.0}
# One more than a point may take its process down before the profiler gives the point up.
MAX_DEATHS: Final = 4


class Course:
    """The clocks and the state of one output folder; ``state`` holds what finished stages have to say.

    The slice began at ``started_s`` of the monotonic clock. A stage may take ``grace_s`` more than its time, for the
    point in flight, before its process is ended.
    """

    def __init__(self, folder: Path, *, slice_s: float, total_s: float, grace_s: float, started_s: float) -> None:
        self._folder = folder
        self._path = folder / "state.json"
        self._started_s = started_s
        self._margin_s = min(_MARGIN_S, _MARGIN_SHARE * slice_s)
        self._slice_s = slice_s - self._margin_s
        self._total_s = total_s - self._margin_s
        self._grace_s = grace_s
        self._stage_ends_s = math.inf
        self.state: dict[str, Any] = {"spent_s": 0.0, "runs": [], "starts": {}}
        if self._path.exists():
            self.state = _read_state(self._path)
        self._spent_before_s = float(self.state["spent_s"])
        self._count_the_dead()

    def _count_the_dead(self) -> None:
        """Add the time since an earlier process of this call last told it, and the death of one within a stage."""
        told, flight = self.state.get("told"), self.state.pop("in_flight", None)
        if told is None or told["parent"] != os.getppid() or told["at_s"] > self._started_s:
            return
        self._spent_before_s += self._started_s - told["at_s"]
        if flight is not None:
            entry = self._entry(flight["stage"])
            entry["spent_s"] += self._started_s - flight["began_s"]
            entry["deaths"] += 1

    @property
    def spent_s(self) -> float:
        """Seconds all slices have taken so far."""
        return self._spent_before_s + time.monotonic() - self._started_s

    @property
    def left_s(self) -> float:
        """Seconds of this stage that are left."""
        return min(self._slice_left_s, self._total_left_s, self._stage_ends_s - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no stage may begin in this slice."""
        return min(self._slice_left_s, self._total_left_s) <= 0

    @property
    def has_another_slice(self) -> bool:
        """Whether all slices together may take so long that another one can measure something."""
        return self._total_left_s - self._slice_left_s > self._margin_s

    @property
    def goes_on(self) -> bool:
        """Whether the stage in flight, once its time is over, goes on in the next slice."""
        return self.has_another_slice and self._slice_left_s < self._stage_ends_s - time.monotonic()

    @property
    def _slice_left_s(self) -> float:
        return self._slice_s - (time.monotonic() - self._started_s)

    @property
    def _total_left_s(self) -> float:
        return self._total_s - self.spent_s

    def refusal(self, stage: Stage) -> dict[str, Any] | None:
        """Return what is to be told of a stage that may not begin: the time is over, or its process keeps dying."""
        if self.is_over:
            return {"left_out": ["all of it: the time of --total was over"]}
        deaths = self._entry(stage.name)["deaths"]
        return {"failed": f"{deaths} processes died in it"} if deaths >= MAX_DEATHS else None

    @contextmanager
    def running(self, stage: Stage) -> Iterator[None]:
        """Count the stage's time, and end this process should it hang."""
        began_s = time.monotonic()
        entry = self._entry(stage.name)
        self._stage_ends_s = math.inf if stage.cap_s is None else began_s + stage.cap_s - entry["spent_s"]
        self.state["in_flight"] = {"stage": stage.name, "began_s": began_s}
        self.save()
        guard = threading.Timer(max(self.left_s, 0.0) + self._grace_s, self._end_hung, [stage])
        guard.daemon = True
        guard.start()
        try:
            yield
        finally:
            guard.cancel()
            entry["spent_s"] = round(entry["spent_s"] + time.monotonic() - began_s, 1)
            self._stage_ends_s = math.inf
            self.state.pop("in_flight", None)
            self.save()

    def tell(self, name: str, result: dict[str, Any]) -> None:
        """Keep what a finished stage has to say."""
        self.state[name] = result
        self.save()

    def save(self) -> None:
        """Write the state whole; raises ``OutputError`` where the disk refuses."""
        self.state["spent_s"] = round(self.spent_s, 1)
        self.state["told"] = {"parent": os.getppid(), "at_s": time.monotonic()}
        make_folder(self._folder)
        write_text(self._path, json.dumps(self.state, indent=1))

    def _end_hung(self, stage: Stage) -> None:
        """End a process whose stage is far past its time; the main thread sits in native code and cannot be asked."""
        text = f"hung, ended {format_duration(self._grace_s)} after its time"
        if not self.goes_on:
            self.state[stage.name] = {"failed": text}
            flight = self.state.pop("in_flight")
            self._entry(stage.name)["spent_s"] += round(time.monotonic() - flight["began_s"], 1)
        sys.stderr.write(f"{stage.name}: {text}; a fresh process goes on\n")
        with suppress(OutputError):  # a full disk must not keep the process
            self.save()
        sys.stderr.flush()
        os._exit(RENEW_EXIT_CODE)

    def _entry(self, name: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.state["starts"].setdefault(name, {"spent_s": 0.0, "deaths": 0})
        return entry


def _read_state(path: Path) -> dict[str, Any]:
    """Return what earlier slices have done; raises ``UserError`` where the file does not say it."""
    match parse_json(read_document(path), str(path), hint="remove it: the stages start again, stored rows stay"):
        case {"spent_s": float() | int(), "runs": list(), "starts": dict()} as state:
            return dict(state)
        case _:
            raise UserError(
                f"{path}: is not the state of a campaign", hint="remove it: the stages start again, stored rows stay"
            )
