"""Rows that are stored twice: one measurement counted as two, which shifts spreads and what a fit is judged on.

Two measurements of one point differ in their times, so equal rows are one measurement told twice. Short times in whole
microseconds do agree by chance (10 of 520,000 imported rows), within one table and file. Hence rows are doubles when

- another file holds the equal row already, as after two imports at once;
- or all rows of a run, of many points, are there the same number of times, as when such files were folded into one.
"""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profiles_db.repeats import key_ids

# Fewer points than these may all agree by chance.
_MANY_POINTS: Final = 8


def doubled_rows(table: pa.Table, file_of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the rows of ``table`` that say again what a row before them says; ``file_of`` numbers each row's file."""
    doubled = np.zeros(table.num_rows, dtype=np.bool_)
    if not table.num_rows:
        return doubled
    equal = key_ids(table, table.column_names)
    rank = _rank_within(equal, file_of)
    # The n-th equal row of a file is new only where no file before it has an n-th.
    order = np.lexsort((file_of, rank, equal))
    again = (np.diff(equal[order]) == 0) & (np.diff(rank[order]) == 0)
    doubled[order[1:]] = again
    run = key_ids(table, ["run_id"])
    kept = ~doubled
    counts = np.bincount(equal[kept], minlength=int(equal.max()) + 1)[equal]
    times = np.zeros(int(run.max()) + 1, dtype=np.int64)
    np.gcd.at(times, run[kept], counts[kept])
    points = np.bincount(run[kept & (rank == 0)], minlength=len(times))
    times[points < _MANY_POINTS] = 1
    doubled |= kept & (rank >= counts // np.maximum(times, 1)[run])
    return doubled


def _rank_within(equal: NDArray[np.int64], file_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row's place among the equal rows of its file, from 0 on."""
    order = np.lexsort((file_of, equal))
    starts = np.append(True, (np.diff(equal[order]) != 0) | (np.diff(file_of[order]) != 0))
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    rank = np.empty_like(equal)
    rank[order] = np.arange(len(order)) - first
    return rank
