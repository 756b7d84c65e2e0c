"""JSON documents that hold a table by columns, as data frames write them.

``{key: {index: value}}``, ``{key: [values]}`` or ``{"columns": [...], "data": [[...]]}``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import listed, shown
from simulator.workload.columns import RawChunk


def columns_of(path: Path, document: Mapping[str, Any]) -> Mapping[str, Sequence[Any]] | None:
    """Return a document's columns by name, None where it holds no table; UserError where they differ in length."""
    names, rows = document.get("columns"), document.get("data")
    columns: dict[str, Sequence[Any]]
    if isinstance(names, list) and isinstance(rows, list):
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise UserError(f"{path}: columns are {shown(names)}, must be names, each once")
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, list) or len(row) != len(names):
                raise UserError(f"{path}: row {number} of data is {shown(row)}, must be a list of {len(names)} values")
        columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    elif document and all(isinstance(values, dict) for values in document.values()):
        index = list(next(iter(document.values())))
        for name, values in document.items():
            if list(values) != index:
                raise UserError(f"{path}: column {shown(name)} has other rows than the first column")
        columns = {name: list(values.values()) for name, values in document.items()}
    elif document and all(isinstance(values, list) for values in document.values()):
        columns = dict(document)
    else:
        return None
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise UserError(f"{path}: its columns differ in length ({listed(sorted(lengths))} rows)")
    return columns


def frame_chunk(
    path: Path, columns: Mapping[str, Sequence[Any]], required: Sequence[str], optional: Sequence[str]
) -> RawChunk:
    """Return the wanted columns as one chunk; the number of a row stands for its line."""
    missing = [key for key in required if key not in columns]
    if missing:
        raise UserError(f"{path}: has no column {shown(missing[0])}", hint=f"its columns are {listed(columns)}")
    keys = [*required, *(key for key in optional if key in columns)]
    count = len(columns[required[0]])
    values = {key: list(columns[key]) for key in keys}
    return RawChunk(path=f"{path}: row", line=np.arange(1, count + 1, dtype=np.int64), values=values)
