"""Points that take far longer than a larger point of the same curve: noise, a cold start, a faulty link.

Along its work column more work cannot take less time, so a row is an outlier when

    latency_s > 2 min{latency_s of rows with more work, all other key columns equal}
"""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profiles_db.repeats import key_ids
from profiles_db.schema import FAMILIES

OUTLIER_FACTOR: Final = 2.0

# Work column of a family and what follows from it; attention has several work columns and is left out.
_WORK: Final = {
    "gemm": ("m", ()),
    "moe": ("num_tokens", ()),
    "elementwise": ("rows", ("io_bytes",)),
    "custom": ("amount", ()),
    "collective": ("message_bytes", ()),
}


def slower_than_larger(table: pa.Table, family: str) -> NDArray[np.bool_]:
    """Mark the outliers of ``table``, whose rows must all have a latency; none in a family without a work column."""
    marked = np.zeros(table.num_rows, dtype=np.bool_)
    if family not in _WORK or not table.num_rows:
        return marked
    work_column, derived = _WORK[family]
    apart = {work_column, *derived}
    curve = key_ids(table, [name for name in FAMILIES[family].key_columns if name not in apart])
    work, latency = table[work_column].to_numpy(), table["latency_s"].to_numpy()
    order = np.lexsort((latency, work, curve))
    # Within a curve the least latency further up; ranks offset by curve keep the curves apart in one backward pass.
    by_latency = np.argsort(np.argsort(latency[order], kind="stable"), kind="stable")
    least = np.minimum.accumulate((curve[order] * table.num_rows + by_latency)[::-1])[::-1] % table.num_rows
    fastest = np.sort(latency)[least]
    marked[order] = latency[order] > OUTLIER_FACTOR * fastest
    return marked
