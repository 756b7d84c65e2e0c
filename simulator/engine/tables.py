"""How compiled code finds a row of a table or a list of integers from the header they belong to.

A call passes two or three plain pointers, a header and rows. Arrays would travel as seven words each, and the dozen of
them a run needs would make most calls cost more than what they do. Indices are not checked: one that is wrong reads or
writes something else.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
from numba.core.cgutils import voidptr_t
from numba.extending import intrinsic

from simulator.engine.log_row import LogRow
from simulator.engine.records import PLACE_BYTES, Ints, Record
from simulator.engine.replica import Group, Node, Replica, Segment
from simulator.engine.request import Request
from simulator.engine.state import State

Row = TypeVar("Row", bound=Record)


def _table(field: str, row: type[Row]) -> Callable[[State, int], Row]:
    """Make the function that finds the row at an index of the table that begins at ``field`` of a state."""
    offset = next(at for name, (_, at, *_) in (State.dtype.fields or {}).items() if name == field)
    row_type = numba.from_dtype(row.dtype)

    @intrinsic
    def find(_: Any, state: Any, index: Any) -> Any:  # noqa: ARG001 - numba passes their types
        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            integer = context.get_value_type(numba.int64)
            start = builder.bitcast(values[0], voidptr_t)
            begins = builder.bitcast(builder.gep(start, [integer(offset)]), integer.as_pointer())
            place = builder.load(begins)
            # Compiled code never moves a table: no need to look again after every write.
            place.set_metadata("invariant.load", builder.module.add_metadata([]))
            at = builder.add(
                builder.mul(place, integer(PLACE_BYTES)), builder.mul(values[1], integer(row.dtype.itemsize))
            )
            return builder.bitcast(builder.gep(start, [at]), context.get_value_type(row_type))

        return row_type(state, numba.int64), generate

    return cast(Callable[[State, int], Row], find)


@intrinsic
def _list_at(_: Any, header: Any, place: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        first = builder.bitcast(values[0], context.get_value_type(numba.int64).as_pointer())
        return builder.gep(first, [values[1]])

    integers = numba.types.CPointer(numba.int64)  # type: ignore[no-untyped-call]  # numba has no types
    return integers(header, numba.int64), generate


request: Final = _table("requests", Request)
replica: Final = _table("replicas", Replica)
group: Final = _table("groups", Group)
segment: Final = _table("segments", Segment)
node: Final = _table("nodes", Node)
log_row: Final = _table("log", LogRow)
# Finds the list of integers that begins at a place counted from a header.
list_at: Final = cast(Callable[[Record, int], Ints], _list_at)
