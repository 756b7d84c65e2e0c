"""Rows of equal key: which they are, what their median is, and which layer's rows win.

Keys may hold nulls (an unlocked clock) and two nulls are the same key, which Arrow's joins deny; so rows are numbered
by key through dictionary codes, and everything else is integer arithmetic.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass


def key_ids(table: pa.Table, columns: Sequence[str]) -> NDArray[np.int64]:
    """Return each row's key number: equal keys, nulls included, get equal numbers in 0..distinct keys."""
    ids = np.zeros(table.num_rows, dtype=np.int64)
    span = 1  # ids are below it
    for name in columns:
        codes = table[name].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
        width = int(codes.max(initial=0)) + 1
        if span * width > _LARGEST_SPAN:
            ids, span = _renumbered(ids)
        ids, span = ids * width + codes, span * width
    return _renumbered(ids)[0]


_LARGEST_SPAN: Final = 2**62


def _renumbered(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    distinct, dense = np.unique(ids, return_inverse=True)
    return dense.astype(np.int64, copy=False), max(len(distinct), 1)


def without_keys_of(table: pa.Table, above: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Rows of ``table`` whose key does not occur in ``above``."""
    if not table.num_rows or not above.num_rows:
        return table
    both = pa.concat_tables([above.select(list(columns)), table.select(list(columns))])
    ids = key_ids(both, columns)
    hidden = np.isin(ids[above.num_rows :], ids[: above.num_rows])
    return table.filter(pa.array(~hidden))


def median_of_repeats(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """One row per key: the row of (lower) median latency, with the number of rows it stands for as ``repeats``.

    A whole row is kept rather than a column-wise median, so that latency, clock and energy stay of one measurement.
    """
    ids = key_ids(table, columns)
    latency = pc.fill_null(table["latency_s"], float("inf")).combine_chunks().to_numpy()
    order = np.lexsort((latency, ids))
    counts = np.bincount(ids) if len(ids) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    middle = order[starts + (counts - 1) // 2]
    picked = np.argsort(middle)  # keep the order of the input
    field = pa.field("repeats", pa.int64(), nullable=False)
    return table.take(pa.array(middle[picked])).append_column(field, pa.array(counts[picked], pa.int64()))


@dataclass(frozen=True, slots=True)
class RepeatSpread:
    """Relative spread (max - min) / median of every key measured more than once, and how many rows those keys hold."""

    spread: NDArray[np.float64]
    rows: int


def repeat_spread(table: pa.Table, columns: Sequence[str]) -> RepeatSpread:
    """Return how far repeats of one key are apart; every row of ``table`` must have a latency."""
    ids = key_ids(table, columns)
    latency = table["latency_s"].combine_chunks().to_numpy(zero_copy_only=False)
    order = np.lexsort((latency, ids))
    sorted_latency = latency[order]
    counts = np.bincount(ids) if len(ids) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    repeated = counts > 1
    first, count = starts[repeated], counts[repeated]
    median = (sorted_latency[first + (count - 1) // 2] + sorted_latency[first + count // 2]) / 2
    return RepeatSpread((sorted_latency[first + count - 1] - sorted_latency[first]) / median, int(count.sum()))
