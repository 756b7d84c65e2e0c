"""Records that are objects, of any JSON container, as chunks of raw columns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import listed, shown
from simulator.workload.columns import RawChunk

# Records of one chunk may take this much text: with a chunk of short ones it is far from reached.
MOST_CHUNK_BYTES: Final = 8 * 2**20

Numbered = tuple[int, Mapping[str, Any]]


def record_of(value: object, place: str) -> Mapping[str, Any]:
    """Return a value that is a JSON object; UserError for any other."""
    if not isinstance(value, dict):
        raise UserError(f"{place}: is {shown(value)}, must be a JSON object like {{...}}")
    return value


def chunk_columns(
    path: str, blocks: Iterable[Sequence[Numbered]], required: Sequence[str], optional: Sequence[str]
) -> Iterator[RawChunk]:
    """Yield blocks of numbered records as columns; an optional key must be in all records or in none."""
    present: list[str] | None = None
    for block in blocks:
        records = [record for _, record in block]
        lines = np.array([number for number, _ in block], dtype=np.int64)
        seen = [key for key in optional if any(key in record for record in records)]
        if present is not None and not set(seen) <= set(present):
            late = next(key for key in seen if key not in present)
            index = next(i for i, record in enumerate(records) if late in record)
            raise UserError(f"{path}:{lines[index]}: has a key {late!r} that earlier records lack")
        present = seen if present is None else present
        values: dict[str, Any] = {}
        for key in (*required, *present):
            try:
                values[key] = [record[key] for record in records]
            except KeyError:
                index = next(i for i, record in enumerate(records) if key not in record)
                raise UserError(
                    f"{path}:{lines[index]}: has no key {shown(key)}", hint=f"its keys are {listed(records[index])}"
                ) from None
        yield RawChunk(path=path, line=lines, values=values)
