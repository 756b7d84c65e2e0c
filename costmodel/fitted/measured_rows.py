"""Measured rows of one family as a fit takes them: what was run, how much of it, how long it took, what work it was."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRows:
    """Rows of one family: ``label`` and ``shape`` [rows, features] say what, ``x`` and ``y`` how much of it.

    ``flop_s`` and ``bytes_s`` are the two sides of the roofline; ``y`` is all ones for families without it. A row that
    ``is_estimate`` was not measured (`costmodel.fitting.filling`).
    """

    family: str
    features: tuple[str, ...]
    label: NDArray[np.str_]
    shape: Array
    x: Array
    y: Array
    latency_s: Array
    flop_s: Array
    bytes_s: Array
    efficiency: Mapping[str, tuple[float, float]]  # per label: analytic compute and memory efficiency
    is_estimate: NDArray[np.bool_]

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "MeasuredRows":
        """Keep some rows."""
        return MeasuredRows(
            family=self.family,
            features=self.features,
            label=self.label[rows],
            shape=self.shape[rows],
            x=self.x[rows],
            y=self.y[rows],
            latency_s=self.latency_s[rows],
            flop_s=self.flop_s[rows],
            bytes_s=self.bytes_s[rows],
            efficiency=self.efficiency,
            is_estimate=self.is_estimate[rows],
        )


def concatenated(parts: Sequence[MeasuredRows]) -> MeasuredRows:
    """Put rows of one family one behind the other."""
    return replace(
        parts[0],
        label=np.concatenate([part.label for part in parts]),
        shape=np.concatenate([part.shape for part in parts]),
        x=np.concatenate([part.x for part in parts]),
        y=np.concatenate([part.y for part in parts]),
        latency_s=np.concatenate([part.latency_s for part in parts]),
        flop_s=np.concatenate([part.flop_s for part in parts]),
        bytes_s=np.concatenate([part.bytes_s for part in parts]),
        is_estimate=np.concatenate([part.is_estimate for part in parts]),
    )


def without_repeats(rows: MeasuredRows) -> MeasuredRows:
    """Sort by label, shape, x, y and keep the row of (lower) median latency of each point."""
    _, code = np.unique(rows.label, return_inverse=True)
    columns = [rows.latency_s, rows.y, rows.x, *rows.shape.T[::-1], code]
    rows = rows.take(np.lexsort(columns))
    point = np.column_stack([rows.shape, rows.x, rows.y])
    new = np.ones(len(point), dtype=bool)
    new[1:] = np.any(point[1:] != point[:-1], axis=1) | (rows.label[1:] != rows.label[:-1])
    begin = np.flatnonzero(new)
    count = np.diff(np.append(begin, len(point)))
    return rows.take(begin + (count - 1) // 2)
