"""What a run has measured but not yet stored, kept on disk so that a killed run loses only the point in flight.

Each rank appends its rows to a file of its own, one JSON line per row, synced before the next point; rank 0 turns
them into Parquet a round at a time and only then are the lines dropped. Beside it stands a mark of the point in flight:
a mark that outlives its process says on which point the process died.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cluster_specs.errors import UserError
from profiler.point import Point

Row = dict[str, Any]
FOLDER: Final = ".profile"
# A point that has taken its process down this often is given up.
MAX_DEATHS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One journalled row and the run that measured it."""

    family: str
    run_id: str
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A point that was in flight when its process ended; ``deaths`` counts how often, ``hung`` that it timed out."""

    family: str
    run_id: str
    columns: Row
    deaths: int
    hung: bool


class FolderLock:
    """Exclusive use of one output folder by one run; the kernel releases it however the holder dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOLDER / "lock"
        self._fd: int | None = None

    def __enter__(self) -> Self:
        """Take the lock; raises ``UserError`` where another run holds it or the folder cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unwritable(self._path.parent.parent, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = self._path.read_text().strip() or "unknown process"
            os.close(self._fd)
            self._fd = None
            raise UserError(
                f"{self._path.parent.parent}: another run is writing here ({holder})",
                hint="wait for it, stop it, or give another folder with --db DIR",
            ) from error
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"pid {os.getpid()}\n".encode())
        return self

    def __exit__(self, *exception: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def unwritable(folder: Path, error: OSError) -> UserError:
    """Return the error for a folder the system refuses to write to."""
    return UserError(
        f"{folder}: cannot be written: {error.strerror or error}",
        hint="free some space or give another folder with --db DIR; the same command resumes",
    )


class Journal:
    """One rank's file of rows not yet stored; ``rank`` is unique over the run."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._root = folder
        self._rows = folder / FOLDER / f"rows-{rank}.jsonl"
        self._flight = folder / FOLDER / f"flight-{rank}.json"

    def begin(self, point: Point, run_id: str) -> None:
        """Mark ``point`` as in flight."""
        mark = {"family": point.family, "run_id": run_id, "columns": point.columns, "hung": False}
        self._write_mark(mark)

    def hang(self) -> None:
        """Say that the point in flight has hung, before the process is ended for it."""
        mark = json.loads(self._flight.read_text())
        self._write_mark(mark | {"hung": True})

    def commit(self, family: str, run_id: str, rows: Iterable[Row]) -> None:
        """Append rows, synced to disk, and clear the mark; raises ``UserError`` where the disk refuses."""
        lines = "".join(json.dumps({"family": family, "run_id": run_id, "row": row}) + "\n" for row in rows)
        try:
            with self._rows.open("a", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self._root, error) from error
        finally:
            self.abandon()  # a full disk is no fault of the point

    def abandon(self) -> None:
        """Clear the mark of a point that was given up without a row."""
        self._flight.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the rows: they are stored."""
        self._rows.unlink(missing_ok=True)

    def _write_mark(self, mark: Mapping[str, Any]) -> None:
        try:
            temporary = self._flight.with_suffix(".tmp")
            temporary.write_text(json.dumps(mark), encoding="utf-8")
            temporary.replace(self._flight)
        except OSError as error:
            raise unwritable(self._root, error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What earlier runs left in a folder: rows to store, points they died on, and lines cut off by the death."""

    entries: tuple[Entry, ...]
    deaths: tuple[Death, ...]
    torn: int


def collect_leftovers(folder: Path) -> Leftovers:
    """Read every journal in ``folder`` and count the deaths; call with the folder locked, before ranks start."""
    home = folder / FOLDER
    entries: list[Entry] = []
    torn = 0
    for path in sorted(home.glob("rows-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(Entry(**json.loads(line)))
            except (ValueError, TypeError):
                torn += 1
    return Leftovers(entries=tuple(entries), deaths=_count_deaths(home), torn=torn)


def discard_leftovers(folder: Path) -> None:
    """Drop the journals whose rows are now stored."""
    for path in (folder / FOLDER).glob("rows-*.jsonl"):
        path.unlink()


def _count_deaths(home: Path) -> tuple[Death, ...]:
    """Turn marks of dead processes into counts that last over runs."""
    ledger = home / "deaths.json"
    counts: dict[str, int] = json.loads(ledger.read_text()) if ledger.exists() else {}
    deaths: dict[str, Death] = {}
    for path in sorted(home.glob("flight-*.json")):
        mark = json.loads(path.read_text(encoding="utf-8"))
        name = json.dumps([mark["family"], mark["columns"]], sort_keys=True)
        if name not in deaths:  # ranks of one collective die on the same point
            counts[name] = counts.get(name, 0) + 1
        hung = bool(mark["hung"]) or (name in deaths and deaths[name].hung)
        deaths[name] = Death(
            family=mark["family"], run_id=mark["run_id"], columns=mark["columns"], deaths=counts[name], hung=hung
        )
        path.unlink()
    if counts:
        temporary = ledger.with_suffix(".tmp")
        temporary.write_text(json.dumps(counts), encoding="utf-8")
        temporary.replace(ledger)
    return tuple(deaths.values())
