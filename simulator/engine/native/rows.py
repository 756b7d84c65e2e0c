"""Records, look-ups and lists as numba compiles them: a pointer, a load and an addition, a pointer to integers."""

from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

import numba
from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr, signature
from numba.extending import models, register_model

from simulator.engine.costs import Costs
from simulator.engine.records import PLACE_BYTES, Ints, Record, Small, offset_of
from simulator.engine.state import State
from simulator.engine.tables import Table, list_at

_PLACE: Final = ir.IntType(64)
_PLAIN: Final = {
    int: types.int64,
    Small: types.int32,
    bool: types.boolean,
    float: types.float64,
    None: types.none,
    Ints: types.CPointer(types.int64),
}


class RowType(types.Type):
    """A pointer to a row: numba's own record type spells out all its fields wherever it is named."""

    def __init__(self, record: type[Record]) -> None:
        self.record = record
        super().__init__(name=record.__name__)


register_model(RowType)(models.OpaqueModel)


def type_of(hint: Any) -> Any:
    """Compiled type of an annotation of a kernel or a field."""
    if get_origin(hint) is tuple:
        return types.BaseTuple.from_types([type_of(part) for part in get_args(hint)])
    if isinstance(hint, type) and issubclass(hint, Record):
        return RowType(hint)
    return _PLAIN[hint]


@infer_getattr
class _Fields(AttributeTemplate):
    """Types of the fields of a row."""

    key = RowType

    def generic_resolve(self, row: RowType, field: str) -> Any:
        """Type of a field, or nothing where the record has none of that name."""
        hint = row.record.__annotations__.get(field)
        return None if hint is None else type_of(hint)


def _field(builder: Any, row: Any, record: type[Record], field: str) -> Any:
    offset = offset_of(record, field)
    return builder.gep(row, [_PLACE(offset)], inbounds=True)


@lower_getattr_generic(RowType)
def _read_field(context: Any, builder: Any, row_type: RowType, row: Any, field: str) -> Any:
    at = _field(builder, row, row_type.record, field)
    wanted = type_of(row_type.record.__annotations__[field])
    if isinstance(wanted, RowType):
        return at
    return context.unpack_value(builder, wanted, builder.bitcast(at, context.get_data_type(wanted).as_pointer()))


@lower_setattr_generic(RowType)
def _write_field(context: Any, builder: Any, call: Any, values: Any, field: str) -> None:
    row_type, value_type = call.args
    at = _field(builder, values[0], row_type.record, field)
    context.pack_value(
        builder, value_type, values[1], builder.bitcast(at, context.get_data_type(value_type).as_pointer())
    )


def _find_row(table: Table[Any]) -> Any:
    """Make the code that finds a row of ``table``."""
    offset = offset_of(State, table.field)

    def generate(_: Any, builder: Any, __: Any, values: Any) -> Any:
        start, index = values
        begins = builder.bitcast(builder.gep(start, [_PLACE(offset)]), _PLACE.as_pointer())
        place = builder.load(begins)
        # Compiled code never moves a table: no need to look again after every write.
        place.set_metadata("invariant.load", builder.module.add_metadata([]))
        rows = builder.mul(place, _PLACE(PLACE_BYTES))
        return builder.gep(start, [builder.add(rows, builder.mul(index, _PLACE(table.row.dtype.itemsize)))])

    return generate


def _find_list(_: Any, builder: Any, __: Any, values: Any) -> Any:
    return builder.gep(builder.bitcast(values[0], _PLACE.as_pointer()), [values[1]])


def look_ups(value: object) -> Iterator[tuple[Any, Any]]:
    """Signatures of a look-up and the code of each; nothing for any other value."""
    if isinstance(value, Table):
        yield signature(RowType(value.row), RowType(State), numba.int64), _find_row(value)
    elif value is list_at:
        for header in (State, Costs):
            yield signature(_PLAIN[Ints], RowType(header), numba.int64), _find_list
