"""An op of a plan as rows of a shape manifest: the columns by which the profiler runs it and the fit finds it again.

What the ops leave open is chosen as engines do it: how low-precision operands are scaled, and which group of ranks on
which link level stands for a transfer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.hierarchy import hops
from costmodel.ops import Attention, Collective, Elementwise, Gemm, Moe, Op, Scan

Row = dict[str, object]

# How the operands of a number format are scaled; formats not named have no scales.
_SCALING: Final[Mapping[str, str]] = {
    "fp8": "row",
    "fp8_block": "group128",
    "w8a8": "row",
    "w8a16": "row",
    "w4a16": "group128",
    "w4a8": "group128",
    "mxfp4": "group32",
    "nvfp4": "group16",
}


def family_of(op: Op) -> str:
    """Name the op family of ``profiles_db.schema`` that holds ``op``."""
    return type(op).__name__.lower()


def iter_rows(op: Op, cluster: ClusterSpec) -> Iterator[Row]:
    """Yield a manifest row for every point of ``op``.

    A transfer inside one rank is no row; one that skips ranks over several levels is a row per level it crosses.
    """
    match op:
        case Gemm():
            yield from _plain(op, scaling=_SCALING.get(op.dtype, "none"), quantise=False)
        case Attention() | Scan():
            yield from _plain(op, phase=op.phase)
        case Moe():
            yield from _plain(op)
        case Elementwise():
            yield from _small_op(op)
        case Collective():
            yield from _transfers(op, cluster)


def _plain(op: Op, **more: object) -> Iterator[Row]:
    """Yield the op's own fields, point by point."""
    names = [field.name for field in fields(op)]
    columns = np.broadcast_arrays(*(np.asarray(getattr(op, name)).ravel() for name in names))
    for values in zip(*(_integers(column) for column in columns), strict=True):
        yield {**dict(zip(names, values, strict=True)), **more}


def _integers(column: NDArray[np.generic]) -> list[object]:
    """Plain values; sizes prepared as floats are whole."""
    is_float = np.issubdtype(column.dtype, np.floating)
    values: list[object] = (np.rint(column).astype(np.int64) if is_float else column).tolist()
    return values


def _small_op(op: Elementwise) -> Iterator[Row]:
    for rows in np.asarray(op.rows).ravel().tolist():
        io_bytes = round(rows * op.bytes_per_row)
        yield {"op": op.op, "rows": round(rows), "width": op.width, "io_bytes": io_bytes, "dtype": op.dtype}


def _transfers(op: Collective, cluster: ClusterSpec) -> Iterator[Row]:
    path = hops(cluster, op.ranks, op.group_stride)
    if not path:
        return
    # Libraries run a transfer over neighbours as one call, whatever the levels; the outermost names it.
    groups = [(op.ranks, op.group_stride, 1.0, path[-1])]
    if len(path) > 1 and op.group_stride > 1:
        groups = [(hop.members, op.group_stride * hop.inner, 1.0 / hop.inner, hop) for hop in path]
    for ranks, stride, share, hop in groups:
        nodes = len({rank * stride // cluster.devices_per_domain for rank in range(ranks)})
        for message in np.asarray(op.message_bytes).ravel().tolist():
            yield {
                "kind": op.kind,
                "ranks": ranks,
                "nodes": nodes,
                "level": hop.link.name,
                "message_bytes": round(message * share),
                "dtype": op.dtype,
            }
