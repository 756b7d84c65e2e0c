"""Foreign columns, already in our units, as rows of one op family."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from profiles_db.schema import FAMILIES

# An Arrow or NumPy array, or one value for all rows; Arrow ships no types to say it more exactly.
Column: TypeAlias = Any


def family_rows(family: str, num_rows: int, columns: Mapping[str, Column]) -> pa.Table:
    """Build a table of ``family``: arrays as they are, scalars repeated, nullable columns left out become null.

    ``status`` is ``ok`` unless given. A column that is missing though the family needs it is a defect of the importer.
    """
    schema = FAMILIES[family].schema
    given = {"status": "ok", **columns}
    unknown = set(given) - set(schema.names)
    assert not unknown, f"importer fills columns that {family} does not have: {sorted(unknown)}"
    arrays = []
    for field in schema:
        value = given.get(field.name)
        assert value is not None or field.nullable, f"importer leaves {family}.{field.name} empty"
        if value is None:
            arrays.append(pa.nulls(num_rows, field.type))
        elif isinstance(value, pa.ChunkedArray | pa.Array):
            arrays.append(value.cast(field.type))
        elif isinstance(value, np.ndarray):
            arrays.append(pa.array(value, field.type))
        else:
            arrays.append(pa.repeat(pa.scalar(value, field.type), num_rows))
    return pa.table(arrays, schema=schema)
