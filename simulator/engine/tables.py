"""How the engine finds a row of a table or a list of integers from the header they belong to.

A call passes two or three plain pointers, a header and rows. Arrays would travel as seven words each, and the dozen of
them a run needs would make most calls cost more than what they do. Indices are not checked: one that is wrong reads or
writes something else. ``native.rows`` compiles a look-up to a load and an addition; here is the same in Python.
"""

import ctypes
from typing import Final, Generic, TypeVar, cast

from simulator.engine.costs import Costs
from simulator.engine.log_row import LogRow
from simulator.engine.records import PLACE_BYTES, Ints, Record
from simulator.engine.replica import Group, Item, Node, Replica, Segment
from simulator.engine.request import Request
from simulator.engine.state import State

Row = TypeVar("Row", bound=Record)


class Table(Generic[Row]):
    """The rows of one table of a state, which begins at the place that ``field`` holds."""

    def __init__(self, field: str, row: type[Row]) -> None:
        self.field = field
        self.row = row

    def __call__(self, state: State, index: int) -> Row:
        """Row at ``index``."""
        at = getattr(state, self.field) * PLACE_BYTES + index * self.row.dtype.itemsize
        return cast(Row, self.row.structure.from_address(_address(state) + at))


def list_at(header: Record, place: int) -> Ints:
    """List of integers that begins at a place counted from a header."""
    first = ctypes.c_int64.from_address(_address(header) + place * PLACE_BYTES)
    return cast(Ints, ctypes.pointer(first))


def _address(header: Record) -> int:
    return ctypes.addressof(cast(ctypes.Structure, header))


request: Final = Table("requests", Request)
replica: Final = Table("replicas", Replica)
group: Final = Table("groups", Group)
segment: Final = Table("segments", Segment)
node: Final = Table("nodes", Node)
log_row: Final = Table("log", LogRow)
item: Final = Table("items", Item)
# Of two pools: the header of the other one, and from the prefill pool the step tables of the decode pool; index 0.
peer: Final = Table("peer", State)
peer_costs: Final = Table("peer_costs", Costs)
