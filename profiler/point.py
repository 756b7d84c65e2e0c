"""What is measured: an op of one shape (`OpShape`), and that op placed on a kernel, clock and cache state (`Point`).

A point's key is the key of the row it becomes (`profiles_db.schema.Family.key_columns`), so "already measured" and
"the same measurement" mean the same thing to the planner, the journal and the store.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.all import op_of_sizes
from costmodel.ops.op_types import Elementwise, Op
from profiles_db.schema import FAMILIES

Value = str | int | bool | float | None
Key = tuple[Value, ...]

# Families whose points every rank takes part in; all others are measured by one rank alone.
COLLECTIVE_FAMILIES: Final = frozenset({"collective"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpShape:
    """One op to run: ``values`` are the family's shape columns in the schema's order."""

    family: str
    values: tuple[Value, ...]
    dtype: str

    @classmethod
    def of(cls, family: str, *, dtype: str, **shape: Value) -> "OpShape":
        """Build from named shape columns; raises ``UserError`` where a column is missing or unknown."""
        columns = FAMILIES[family].shape_columns
        missing, unknown = set(columns) - set(shape), set(shape) - set(columns)
        if missing or unknown:
            raise UserError(
                f"{family} shape: missing columns {sorted(missing)}, unknown columns {sorted(unknown)}",
                hint=f"a {family} shape is {', '.join(columns)}",
            )
        return cls(family=family, values=tuple(shape[column] for column in columns), dtype=dtype)

    @property
    def shape(self) -> dict[str, Any]:
        """Shape columns by name."""
        return dict(zip(FAMILIES[self.family].shape_columns, self.values, strict=True))

    @property
    def is_collective(self) -> bool:
        """Whether it is an exchange between ranks."""
        return self.family in COLLECTIVE_FAMILIES

    def __str__(self) -> str:
        """Short text for progress lines and error messages."""
        return f"{self.family} {self.dtype} " + " ".join(f"{name}={value}" for name, value in self.shape.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An op shape, the kernel that runs it (``backend`` column), and the state it is measured in."""

    op: OpShape
    device: str
    backend: str
    launch: str
    cache: str
    clock_mhz: float | None = None

    @property
    def family(self) -> str:
        """Op family of the row."""
        return self.op.family

    @property
    def is_collective(self) -> bool:
        """Whether every rank takes part in it."""
        return self.op.is_collective

    @property
    def key(self) -> Key:
        """Values of the family's key columns: equal keys are one measurement; no engine framework stands around it."""
        framework = None
        context = (self.device, self.backend, self.op.dtype, self.clock_mhz, self.launch, self.cache, framework)
        return (*self.op.values, *context)

    @property
    def identity(self) -> tuple[str, Key]:
        """Family and key: unique over all families."""
        return self.family, self.key

    @property
    def columns(self) -> dict[str, Value]:
        """Shape and context columns of the row."""
        return dict(zip(FAMILIES[self.family].key_columns, self.key, strict=True))

    def at(self, clock_mhz: float | None) -> "Point":
        """Return the same point at another locked clock."""
        return replace(self, clock_mhz=clock_mhz)

    def __str__(self) -> str:
        """Short text for progress lines."""
        clock = f" @ {self.clock_mhz:g} MHz" if self.clock_mhz else ""
        return f"{self.op} [{self.backend}, {self.cache}, {self.launch}]{clock}"


def row_identity(family: str, row: Mapping[str, Any]) -> tuple[str, Key]:
    """Return the identity of the point a row (column -> value) was measured for."""
    return family, tuple(row[column] for column in FAMILIES[family].key_columns)


def answers(
    points: Iterable[Point], rows: Iterable[tuple[str, Mapping[str, Any]]]
) -> list[tuple[Point, Mapping[str, Any]]]:
    """Match (family, row) to the points they answer, one row each.

    A point planned as a graph that could not be captured has two rows: the refusal, and the eager one that tells its
    time, which is the answer.
    """
    asked = {point.identity: point for point in points}
    eager = {replace(point, launch="eager").identity: point for point in asked.values()}
    found: dict[tuple[str, Key], tuple[Point, Mapping[str, Any]]] = {}
    for family, row in rows:
        identity = row_identity(family, row)
        point = asked.get(identity) or eager.get(identity)
        if point is not None and (point.identity not in found or row["status"] == "ok"):
            found[point.identity] = (point, row)
    return list(found.values())


def counted(points: Iterable[Point]) -> dict[tuple[str, str, str], int]:
    """Count points per (family, dtype, backend), in order of first appearance."""
    counts: dict[tuple[str, str, str], int] = {}
    for point in points:
        group = point.family, point.op.dtype, point.backend
        counts[group] = counts.get(group, 0) + 1
    return counts


def small_op_shape(op: Elementwise) -> OpShape:
    """Return the shape of a small op of whole rows, with the bytes the op states."""
    assert isinstance(op.rows, int)
    io_bytes = round(op.rows * op.bytes_per_row)
    return OpShape.of("elementwise", dtype=op.dtype, op=op.op, rows=op.rows, width=op.width, io_bytes=io_bytes)


def cost_op(op: OpShape) -> Op | None:
    """Return the op as the cost model counts it, None where it counts none (whole steps)."""
    return op_of_sizes(op.family, op.shape | {"dtype": op.dtype})
