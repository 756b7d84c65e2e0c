"""What a run has measured but not yet stored, kept on disk so that a killed run loses only the point in flight.

Each rank appends its rows to a file of its own, one JSON line per row, synced before the next point; rank 0 turns
them into Parquet a round at a time and only then are the lines dropped. Beside it stands a mark of the point in flight:
a mark that outlives its process says on which point the process died. What a power cut or another program left in
these files is counted and dropped: the points are measured again.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.lock import locked
from cluster_specs.files.reading import read_document
from cluster_specs.files.whole import TEMPORARY_SUFFIX, reason_of, write_text
from cluster_specs.lazy_dataclass import dataclass
from profiler.point import Point
from profiles_db.schema import FAMILIES

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


_HINT: Final = "free some space or give another folder with --db DIR; the same command resumes"


def only_run_in(folder: Path) -> AbstractContextManager[None]:
    """Exclusive use of one output folder by one run; raises ``UserError`` where another run holds it."""
    hint = "wait for it, stop it, or give another folder with --db DIR"
    return locked(folder / FOLDER / "lock", wait=False, folder=folder, hint=hint)


def unwritable(folder: Path, error: OSError) -> OutputError:
    """Return the error for a folder the system refuses to write to."""
    return OutputError(f"{folder}: cannot be written: {reason_of(error)}", hint=_HINT)


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
        mark = _mark_in(self._flight)
        if mark is not None:
            self._write_mark(mark | {"hung": True})

    def commit(self, family: str, run_id: str, rows: Iterable[Row]) -> None:
        """Append rows, synced to disk, and clear the mark; raises ``OutputError`` where the disk refuses."""
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
        write_text(self._flight, json.dumps(mark), hint=_HINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What earlier runs left in a folder: rows to store, points they died on, and ``torn`` lines and files.

    A line or a mark is torn where a death or a power cut cut it off, or where it is nothing this program writes.
    """

    entries: tuple[Entry, ...] = ()
    deaths: tuple[Death, ...] = ()
    torn: int = 0


def collect_leftovers(folder: Path) -> Leftovers:
    """Read every journal in ``folder`` and count the deaths; call with the folder locked, before ranks start."""
    home = folder / FOLDER
    for path in home.glob(f".*{TEMPORARY_SUFFIX}"):  # a mark whose writer was killed
        path.unlink()
    entries: list[Entry] = []
    torn = 0
    for path in sorted(home.glob("rows-*.jsonl")):
        for line in read_document(path).splitlines():
            entry = _entry_in(line)
            if entry is None:
                torn += 1
            else:
                entries.append(entry)
    deaths, unreadable = _count_deaths(home)
    return Leftovers(entries=tuple(entries), deaths=deaths, torn=torn + unreadable)


def discard_leftovers(folder: Path) -> None:
    """Drop the journals whose rows are now stored."""
    for path in (folder / FOLDER).glob("rows-*.jsonl"):
        path.unlink()


def _entry_in(line: bytes) -> Entry | None:
    """Return the journalled row of a line, None where the line holds none."""
    match _parsed(line):
        case {"family": str(family), "run_id": str(run_id), "row": dict(row)} if _is_keyed(family, row):
            return Entry(family=family, run_id=run_id, row=row)
        case _:
            return None


def _mark_in(path: Path) -> dict[str, Any] | None:
    """Return the mark a file holds, None where it holds none."""
    mark = _parsed(read_document(path))
    match mark:
        case {"family": str(family), "run_id": str(), "columns": dict(columns), "hung": bool()}:
            return dict(mark) if _is_keyed(family, columns) else None
        case _:
            return None


def _is_keyed(family: str, columns: Mapping[str, Any]) -> bool:
    """Whether these columns say which point of the family they belong to."""
    scalars = all(value is None or isinstance(value, str | int | float) for value in columns.values())
    return family in FAMILIES and scalars and set(FAMILIES[family].key_columns) <= set(columns)


def _parsed(text: bytes) -> Any:
    try:
        return parse_json(text, "journal")
    except UserError:
        return None


def _count_deaths(home: Path) -> tuple[tuple[Death, ...], int]:
    """Turn marks of dead processes into counts that last over runs; the second number counts unreadable files."""
    ledger = home / "deaths.json"
    known = _parsed(read_document(ledger)) if ledger.exists() else {}
    is_sound = isinstance(known, dict) and all(type(count) is int for count in known.values())
    counts: dict[str, int] = dict(known) if is_sound else {}
    torn = 0 if is_sound else 1
    deaths: dict[str, Death] = {}
    for path in sorted(home.glob("flight-*.json")):
        mark = _mark_in(path)
        if mark is None:
            torn += 1
        else:
            name = json.dumps([mark["family"], mark["columns"]], sort_keys=True)
            if name not in deaths:  # ranks of one collective die on the same point
                counts[name] = counts.get(name, 0) + 1
            hung = mark["hung"] or (name in deaths and deaths[name].hung)
            deaths[name] = Death(
                family=mark["family"], run_id=mark["run_id"], columns=mark["columns"], deaths=counts[name], hung=hung
            )
        path.unlink()
    if counts or torn:
        write_text(ledger, json.dumps(counts), hint=_HINT)
    return tuple(deaths.values()), torn
