"""A state as Python sees it: its header, tables and lists as views of one int64 array."""

from typing import Any, Final, cast

import numpy as np

from simulator.engine.log_row import LogRow
from simulator.engine.records import I64, PLACE_BYTES, Rows, rows_at
from simulator.engine.replica import Group, Item, Node, Replica
from simulator.engine.request import Request
from simulator.engine.state import State

LINE_BYTES: Final = 64  # of cache
LINE_PLACES: Final = LINE_BYTES // PLACE_BYTES
CACHED_ROWS: Final = 2048  # requests whose columns are read or written before the next ones: all of them stay in cache


def aligned_zeros(length: int) -> I64:
    """``length`` int64 that begin at a line of cache, so that a row that fills whole lines shares none."""
    cells = np.zeros(length + LINE_PLACES, dtype=np.int64)
    skipped = -cells.ctypes.data % LINE_BYTES // PLACE_BYTES
    return cells[skipped : skipped + length]


class _Fields:
    """The only row of a table, whose fields are attributes, read and written in place."""

    __slots__ = ("_rows",)
    _rows: Rows

    def __init__(self, rows: Rows) -> None:
        object.__setattr__(self, "_rows", rows)

    def __getattr__(self, field: str) -> Any:
        return self._rows[field][0]

    def __setattr__(self, field: str, value: int) -> None:
        self._rows[field] = value


class StateArrays:
    """Views of a state; what is written to them is written to the state."""

    __slots__ = ("cells", "compiled", "header")

    def __init__(self, cells: I64) -> None:
        self.cells = cells
        rows = rows_at(cells, 0, 1, State)
        self.header: State = cast(State, _Fields(rows))
        self.compiled: State = cast(State, rows)  # what compiled code is called with

    @property
    def requests(self) -> Rows:
        """All requests."""
        return rows_at(self.cells, self.header.requests, self.header.num_requests, Request)

    @property
    def replicas(self) -> Rows:
        """All replicas."""
        return rows_at(self.cells, self.header.replicas, self.header.num_replicas, Replica)

    @property
    def groups(self) -> Rows:
        """All decode groups, those of one replica in a row."""
        return rows_at(self.cells, self.header.groups, self.header.num_replicas * self.header.stages, Group)

    def items(self, count: int) -> Rows:
        """View the first ``count`` encoder items."""
        return rows_at(self.cells, self.header.items, count, Item)

    @property
    def log(self) -> Rows:
        """The rows of the iteration log that were kept."""
        count = min(self.header.log_size, self.header.log_capacity)
        return rows_at(self.cells, self.header.log, count, LogRow)

    def nodes(self, first: int, end: int) -> Rows:
        """View the rows ``first`` to ``end`` of the nodes of all radix caches."""
        return rows_at(self.cells, self.header.nodes, end, Node)[first:]

    def list_at(self, place: int, length: int) -> I64:
        """View a list of ``length`` integers."""
        return self.cells[place : place + length]
