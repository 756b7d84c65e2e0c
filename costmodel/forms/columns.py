"""Columns of one family's measured rows, as NumPy arrays by name, and what every family takes from them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.build_knots import MeasuredRows
from costmodel.label import Label, at_clocks
from costmodel.ops import SCHEMES

Array = NDArray[np.float64]


def texts(columns: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.str_]:
    """Return a column of labels."""
    return columns[name].astype(np.str_)


def numbers(columns: Mapping[str, NDArray[np.generic]], name: str) -> Array:
    """Return a column of numbers as floats."""
    return columns[name].astype(np.float64)


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
    label = at_clocks(label, numbers(columns, "clock_mhz"))
    by_label = {name: efficiency[Label.parse(name).at(None).text] for name in np.unique(label).tolist()}
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
