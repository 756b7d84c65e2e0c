"""Filters a person types: ``COLUMN=VALUE`` as values of the column's type."""

from collections.abc import Sequence

import pyarrow as pa

from cluster_specs.errors import UserError
from profiles_db.validation import schema_of


def parse_filters(family: str, filters: Sequence[str]) -> dict[str, object]:
    """Turn ``COLUMN=VALUE`` texts into typed values; raises ``UserError`` naming the text."""
    schema = schema_of(family)
    where: dict[str, list[object]] = {}
    for text in filters:
        column, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--where {text!r}: must be COLUMN=VALUE", hint="for example dtype=bf16")
        if column not in schema.names:
            raise UserError(
                f"--where {text!r}: {family} has no column {column!r}", hint=f"columns: {', '.join(schema.names)}"
            )
        try:
            parsed = None if value in {"", "null"} else pa.scalar(value).cast(schema.field(column).type).as_py()
        except pa.ArrowInvalid as error:
            kind = schema.field(column).type
            raise UserError(f"--where {text!r}: {value!r} is not a value of {column} ({kind})") from error
        where.setdefault(column, []).append(parsed)
    return {column: tuple(values) for column, values in where.items()}
