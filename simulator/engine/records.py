"""Records: rows of named fields that compiled code, numpy and the type checker share.

A record is declared once, as a class whose annotations are its fields: ``int`` (int64), ``Small`` (int32), ``bool``, or
another record that lies inside. The type checker sees the class, numpy a structured dtype (``Request.dtype``), compiled
code a pointer to one row: ``req.prompt`` is one load, and a row cannot be passed where a number is meant.
"""

import ctypes
from typing import Annotated, Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.void]  # a structured array: one entry per row, columns by name

Small = Annotated[int, np.int32]
PLACE_BYTES: Final = 8  # places in a state count int64


class Record:
    """A row of a table; in Python ``Rows`` hold all rows of one."""

    dtype: ClassVar[np.dtype[np.void]]  # structured, aligned as C aligns a struct
    structure: ClassVar[type[ctypes.Structure]]  # the same at an address, its fields read and written in place

    def __init_subclass__(cls) -> None:
        """Make dtype and structure of the fields that the class declares."""
        cls.dtype = np.dtype([(name, _field_dtype(hint)) for name, hint in cls.__annotations__.items()], align=True)
        fields = [(name, _c_type(hint)) for name, hint in cls.__annotations__.items()]
        cls.structure = type(cls.__name__, (ctypes.Structure,), {"_fields_": fields})


class Ints(Protocol):
    """A list of int64 as compiled code sees it: neither its length nor an index is checked."""

    def __getitem__(self, at: int, /) -> int:
        """Read one entry."""
        ...

    def __setitem__(self, at: int, value: int, /) -> None:
        """Write one entry."""
        ...


def _field_dtype(hint: Any) -> np.dtype[np.generic]:
    if hint is int:
        return np.dtype(np.int64)
    if hint is bool:
        return np.dtype(np.bool_)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.dtype
    width: type[np.generic] = hint.__metadata__[0]
    return np.dtype(width)


def _c_type(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.structure
    dtype: Any = _field_dtype(hint)
    return np.ctypeslib.as_ctypes_type(dtype)


def rows_at(cells: I64, place: int, count: int, record: type[Record]) -> Rows:
    """View ``count`` rows that begin at ``place`` of an int64 array."""
    return np.ndarray(count, dtype=record.dtype, buffer=cells.data, offset=place * PLACE_BYTES)


def taken(rows: Rows, which: slice | Flags = slice(None)) -> Rows:
    """Copy some rows as a whole: by itself numpy copies a record field by field."""
    plain = np.dtype((np.void, rows.dtype.itemsize))
    return rows.view(plain)[which].copy().view(rows.dtype)


def offset_of(record: type[Record], field: str) -> int:
    """Bytes before a field of a row."""
    return int(getattr(record.structure, field).offset)


def places(record: type[Record]) -> int:
    """Length of one row in int64, a whole number since every record holds an int64."""
    return record.dtype.itemsize // PLACE_BYTES
