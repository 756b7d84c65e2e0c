"""What rank 0 knows of the store: which points are there already, and how each new row gets there exactly once."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster_specs.errors import OutputError, UserError
from profiler.journal import FOLDER, MAX_DEATHS, Death, Entry, Leftovers, collect_leftovers, discard_leftovers
from profiler.point import Key, Point, row_identity
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store


class Ledger:
    """The user's layer of the store as one run sees it; open it with the folder locked."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device
        self._store = open_store(folder, bundled=None)
        self._done: set[tuple[str, tuple[object, ...]]] = {
            (family, key) for family in FAMILIES for key in self._store.keys(family, device)
        }

    def __contains__(self, point: Point) -> bool:
        """Whether the point has a row, of whatever status."""
        return point.identity in self._done

    def recover(self) -> tuple[int, int]:
        """Store what dead runs left in their journals; returns the rows stored and how many lines were torn."""
        left = collect_leftovers(self._folder)
        stored = self.settle(left)
        discard_leftovers(self._folder)
        return stored, left.torn

    def settle(self, left: Leftovers) -> int:
        """Store what a dead run left, here or on another node; returns how many rows.

        A point that hung, or took its process down ``MAX_DEATHS`` times, gets a row that says so and is not tried
        again.
        """
        entries = [
            *left.entries,
            *(_epitaph(death) for death in left.deaths if death.hung or death.deaths >= MAX_DEATHS),
        ]
        try:
            return self.add(entries)
        except OutputError:
            raise
        except UserError as error:
            raise UserError(
                f"{self._folder / FOLDER}: holds rows that cannot be stored: {error}",
                hint="remove its files rows-*.jsonl: what they hold is measured again",
            ) from error

    def add(self, entries: Iterable[Entry]) -> int:
        """Store the rows whose points have none yet; returns how many. Raises ``OutputError`` on a full disk."""
        batches: dict[tuple[str, str], list[dict[str, Any]]] = {}
        fresh = set()
        for entry in entries:
            identity = row_identity(entry.family, entry.row)
            if identity in self._done or identity in fresh:
                continue
            fresh.add(identity)
            batches.setdefault((entry.family, entry.run_id), []).append(entry.row)
        for (family, run_id), rows in batches.items():
            self._store.append(family, rows, run_id)
            self._done.update(row_identity(family, row) for row in rows)
        return len(fresh)

    def stored(self, family: str) -> Iterator[tuple[tuple[str, Key], dict[str, Any]]]:
        """Identity and row of everything stored of one family, of every status."""
        for row in self._store.read(family, device=self._device, statuses=None).to_pylist():
            yield row_identity(family, row), row

    def record_run(self, run: Mapping[str, Any], *, ended: bool) -> None:
        """Write the run's row, with its end where it has one."""
        row = {**run, "ended_at": datetime.now(UTC)} if ended else dict(run)
        self._store.append_run(row)


def _epitaph(death: Death) -> Entry:
    """Turn a point that ends its process into a row."""
    status = "timeout" if death.hung else "error"
    note = "hung: the process was ended" if death.hung else f"the process died {death.deaths} times in this point"
    return Entry(
        family=death.family,
        run_id=death.run_id,
        row={**death.columns, "origin": "measured", "status": status, "note": note},
    )
