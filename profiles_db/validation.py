"""Refuses what breaks the contract: wrong columns, types, units or values, named by file, row, column and value."""

from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.collective_kinds import COLLECTIVE_KINDS
from profiles_db.custom_ops import AMOUNTS, OP_NAME, SIZES
from profiles_db.schema import CACHES, FAMILIES, LAUNCHES, RUN, STATUSES, TIMED_STATUSES, unit_of

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "status": STATUSES,
    "launch": LAUNCHES,
    "cache": CACHES,
    "phase": ("prefill", "decode", "mixed"),
    "variant": ("gqa", "mla"),
    "scaling": ("none", "tensor", "row", "group16", "group32", "group128"),
    "kind": tuple(COLLECTIVE_KINDS),
    "amount_of": AMOUNTS,
}
_CHOICES_OF: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "scan": {"phase": ("prefill", "decode"), "variant": ("mamba2", "gated_delta")},
}

# Sizes that make no op when they are zero; every other count may be zero.
_POSITIVE: Final = frozenset(
    {"m", "n", "k", "num_heads", "num_kv_heads", "head_dim", "v_head_dim", "hidden", "inter", "num_experts", "topk"}
    | {"tp", "ep", "rows", "width", "io_bytes", "ranks", "nodes", "message_bytes", "layers", "samples", "world_size"}
    | {
        "num_tokens",
        "num_groups",
        "state_dim",
        "chunk",
        "amount",
        "latency_s",
        "latency_p10_s",
        "latency_p90_s",
        "clock_mhz",
        "sm_clock_mhz",
    }
)

# Numbers up to here are exact as floating point, which is how rates are worked out.
MOST_COUNT: Final = 2**53

_ORIGIN: Final = r"^(measured|analytic|imported:.+)$"


def schema_of(family: str) -> pa.Schema:
    """Arrow schema of a family's files, ``run`` included; raises ``UserError`` for an unknown family."""
    if family == "run":
        return RUN
    if family not in FAMILIES:
        raise UserError(f"unknown op family {family!r}", hint=f"one of {', '.join(FAMILIES)}, run")
    return FAMILIES[family].schema


def conform(table: pa.Table, family: str, place: str, *, stored: bool) -> pa.Table:
    """Give ``table`` exactly the family's columns, order and types.

    A stored file must have every column with its unit; a table about to be written may leave out nullable columns and
    units, but not contradict them. Raises ``UserError`` naming ``place`` and the column.
    """
    schema = schema_of(family)
    if table.schema.equals(schema, check_metadata=True):
        return table
    present = set(table.column_names)
    twice = [name for name in present if table.column_names.count(name) > 1]
    if twice:
        raise UserError(f"{place}: column {shown(min(twice))} is there twice", hint="give each column once")
    missing = [field.name for field in schema if field.name not in present and (stored or not field.nullable)]
    if missing:
        raise UserError(f"{place}: column {missing[0]} is missing from this {family} table")
    unknown = sorted(present - set(schema.names))
    if unknown:
        raise UserError(
            f"{place}: column {shown(unknown[0])} is not part of the {family} schema",
            hint=f"columns: {', '.join(schema.names)}",
        )
    columns = []
    for field in schema:
        if field.name not in present:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        _check_unit(table.schema.field(field.name), place, stored=stored)
        found = table.schema.field(field.name).type
        if not _is_like(found, field.type):
            raise UserError(
                f"{place}: column {field.name} holds {shown(str(found))}, must be {field.type}",
                hint="write it as `apex db export --format parquet` does",
            )
        try:
            columns.append(table[field.name].cast(field.type))
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{place}: column {field.name} cannot be read as {field.type}: {reason}") from error
    return pa.table(columns, schema=schema)


def _is_like(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column's values keep their meaning in the wanted type: no text for numbers, no number for dates."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_null(found) or found == wanted:
        return True
    if pa.types.is_string(wanted):
        return bool(pa.types.is_large_string(found) or str(found) == "string_view")
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(found) or pa.types.is_integer(found))
    if pa.types.is_timestamp(wanted):
        return bool(pa.types.is_timestamp(found) and found.tz is not None)
    return bool(pa.types.is_integer(wanted) and pa.types.is_integer(found))


def _check_unit(field: pa.Field, place: str, *, stored: bool) -> None:
    expected = unit_of(field.name)
    raw = (field.metadata or {}).get(b"unit")
    found = raw.decode(errors="replace") if raw is not None else None
    if found == expected or (found is None and not stored):
        return
    raise UserError(
        f"{place}: column {field.name} has unit {shown(found)} in its metadata, must be {expected!r}",
        hint="convert the values and write the file again; units are never guessed",
    )


def check_rows(table: pa.Table, family: str, place: str) -> None:
    """Check every value of a conforming table; raises ``UserError`` at the first bad one."""
    for field in schema_of(family):
        column = table[field.name]
        if not field.nullable:
            _refuse(pc.is_null(column), table, field.name, place, "must not be null")
        if pa.types.is_floating(field.type):
            _refuse(pc.invert(pc.is_finite(column)), table, field.name, place, "must be a finite number")
        if pa.types.is_integer(field.type):
            _refuse(pc.greater(column, MOST_COUNT), table, field.name, place, "is more than any machine counts")
        if pa.types.is_integer(field.type) or (pa.types.is_floating(field.type) and field.name != "temperature_c"):
            if field.name in _POSITIVE:
                _refuse(pc.less_equal(column, 0), table, field.name, place, "must be > 0")
            else:
                _refuse(pc.less(column, 0), table, field.name, place, "must be >= 0")
        if pa.types.is_string(field.type) and not field.nullable:
            _refuse(pc.equal(column, ""), table, field.name, place, "must not be empty")
        if field.name in _CHOICES:
            choices = _CHOICES_OF.get(family, _CHOICES).get(field.name, _CHOICES[field.name])
            known = pc.is_in(column, value_set=pa.array(choices))
            _refuse(pc.invert(known), table, field.name, place, f"must be one of {', '.join(choices)}")
    origin_known = pc.match_substring_regex(table["origin"], _ORIGIN)
    _refuse(pc.invert(origin_known), table, "origin", place, "must be measured, analytic or imported:<tool>")
    if family != "run":
        _check_timed(table, place)
    if family in _CHECK_OF:
        _CHECK_OF[family](table, place)


def _check_timed(table: pa.Table, place: str) -> None:
    timed = pc.is_in(table["status"], value_set=pa.array(TIMED_STATUSES))
    untimed = pc.is_null(table["latency_s"])
    _refuse(pc.and_(timed, untimed), table, "latency_s", place, "must be given where status is ok or throttled")
    stray = pc.and_(pc.invert(timed), pc.invert(untimed))
    _refuse(stray, table, "latency_s", place, "must be null where status is neither ok nor throttled")


def _check_custom(table: pa.Table, place: str) -> None:
    for column, pattern, rule in (
        ("op", OP_NAME, "must be lower-case words with dots between"),
        ("sizes", SIZES, "must be sizes as in inner=1536 state=16"),
    ):
        is_sound = pc.match_substring_regex(table[column], f"^({pattern})$")
        _refuse(pc.invert(is_sound), table, column, place, rule)


def _check_phase(table: pa.Table, place: str) -> None:
    prefills, decodes = pc.greater(table["num_prefill"], 0), pc.greater(table["num_decode"], 0)
    mixed = pc.and_(prefills, decodes)
    phase = pc.if_else(mixed, "mixed", pc.if_else(prefills, "prefill", "decode"))
    wrong = pc.or_(pc.not_equal(table["phase"], phase), pc.invert(pc.or_(prefills, decodes)))
    _refuse(wrong, table, "phase", place, "must follow from which of num_prefill and num_decode is non-zero")


_CHECK_OF: Final[Mapping[str, Callable[[pa.Table, str], None]]] = {
    "attention": _check_phase,
    "scan": _check_phase,
    "custom": _check_custom,
}


def _refuse(bad: pa.ChunkedArray, table: pa.Table, column: str, place: str, rule: str) -> None:
    """Raise at the first row where ``bad`` is true."""
    row = pc.index(pc.fill_null(bad, False), True).as_py()
    if row >= 0:
        raise UserError(f"{place}: row {row}: {column} is {shown(table[column][row].as_py())}, {rule}")
