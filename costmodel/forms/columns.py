"""Columns of one family's measured rows, as NumPy arrays by name, and what every family takes from them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.build_knots import MeasuredRows
from costmodel.ops import SCHEMES

Array = NDArray[np.float64]


def texts(columns: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.str_]:
    """Return a column of labels."""
    return columns[name].astype(np.str_)


def numbers(columns: Mapping[str, NDArray[np.generic]], name: str) -> Array:
    """Return a column of numbers as floats."""
    return columns[name].astype(np.float64)


def clock_suffix(columns: Mapping[str, NDArray[np.generic]]) -> NDArray[np.str_]:
    """Return "@<MHz>" for rows at a locked clock, "" for the others: rows at different clocks are never mixed."""
    clock = numbers(columns, "clock_mhz")
    locked = np.char.add("@", np.nan_to_num(clock).astype(np.int64).astype(np.str_))
    return np.where(np.isnan(clock), "", locked)


def joined(*parts: NDArray[np.str_] | str) -> NDArray[np.str_]:
    """Join label parts with a bar."""
    label = np.asarray(parts[0], dtype=np.str_)
    for part in parts[1:]:
        label = np.char.add(np.char.add(label, "|"), np.asarray(part, dtype=np.str_))
    return np.asarray(label)


def measured_rows(
    family: str,
    features: tuple[str, ...],
    columns: Mapping[str, NDArray[np.generic]],
    *,
    label: NDArray[np.str_],
    shape: Array,
    x: Array,
    y: Array | None,
    sides: tuple[Array, Array],
    efficiency: Mapping[str, tuple[float, float]],
) -> MeasuredRows:
    """Put a family's parts together; the clock joins the label."""
    label = np.char.add(label, clock_suffix(columns))
    by_label = {name: efficiency[name.partition("@")[0]] for name in np.unique(label).tolist()}
    return MeasuredRows(
        family=family,
        features=features,
        label=label,
        shape=shape,
        x=x,
        y=np.ones_like(x) if y is None else y,
        latency_s=numbers(columns, "latency_s"),
        flop_s=sides[0],
        bytes_s=sides[1],
        efficiency=by_label,
        is_estimate=np.zeros(len(x), dtype=bool),
    )


def gemm_efficiency(cluster: ClusterSpec, dtype: str) -> tuple[float, float]:
    """Return the analytic compute and memory efficiency of a GEMM number format on the device."""
    constants = cluster.device.analytic
    known = {str(name): constant.value for name, constant in constants.gemm_efficiency.items()}
    return known.get(SCHEMES[dtype].compute, min(known.values())), constants.memory_efficiency.value
