"""Rounding of 16-bit activations [m, k] to FP8, as the aiconfigurator wheel times it: two tables that belong together.

``scale_matrix`` times the kernel that rounds by a scale known before. ``computescale`` states how much longer the
kernel takes that first finds the scales, as the difference of both timings, so that the sum of both tables is what that
kernel took: the rounding inside the wheel's timings of dynamically scaled FP8 products.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profiles_db.importers.aiconfigurator_columns import (
    Mapped,
    Origin,
    backend_names,
    latency_s,
    launch_kind,
)
from profiles_db.importers.counting import Sieve
from profiles_db.importers.rows import Column

_STATIC: Final = "scale_matrix"
_BYTES_PER_ELEMENT: Final = 3  # 16 bits read, 8 bits written
_SCALE_BYTES: Final = 4  # written per row


def static_fp8(sieve: Sieve, origin: Origin) -> Mapped:
    """Map rounding by scales that a checkpoint states."""
    return _rounding(sieve, origin, latency_s(sieve), scale_bytes=0)


def dynamic_fp8(sieve: Sieve, origin: Origin) -> Mapped:
    """Map rounding that finds a scale per row: the row's difference, and the static kernel's time at the same size."""
    static = origin.beside(_STATIC)
    known = _sizes(static) if static is not None else np.zeros(0, dtype=np.int64)
    order = np.argsort(known, kind="stable")
    wanted = _sizes(sieve.table)
    at = np.searchsorted(known, wanted, sorter=order)
    is_known = np.zeros(len(wanted), dtype=np.bool_)
    inside = at < len(known)
    is_known[inside] = known[order[at[inside]]] == wanted[inside]
    sieve.drop(~is_known, "difference to a timing that is not in the wheel")
    if static is not None:
        rest = pa.array(order[at[is_known]])
        whole = pa.chunked_array(
            [pc.add(sieve.column("latency").combine_chunks(), static["latency"].take(rest).combine_chunks())]
        )
        sieve.table = sieve.table.set_column(sieve.table.column_names.index("latency"), "latency", whole)
    kernels = pc.replace_substring_regex(sieve.column("kernel_source").cast(pa.string()), "_minus_.*", "")
    sieve.table = sieve.table.set_column(sieve.table.column_names.index("kernel_source"), "kernel_source", kernels)
    return _rounding(sieve, origin, latency_s(sieve), scale_bytes=_SCALE_BYTES)


def _sizes(table: pa.Table) -> NDArray[np.int64]:
    """One number for each pair of sizes."""
    rows = np.asarray(table["m"].to_numpy(), dtype=np.int64)
    return np.asarray((rows << 32) + np.asarray(table["k"].to_numpy(), dtype=np.int64))


def _rounding(sieve: Sieve, origin: Origin, latency: Column, *, scale_bytes: int) -> Mapped:
    rows, width = sieve.column("m"), sieve.column("k")
    return Mapped(
        family="elementwise",
        columns={
            "op": "quantise",
            "rows": rows,
            "width": width,
            "io_bytes": pc.multiply(rows, pc.add(pc.multiply(width, _BYTES_PER_ELEMENT), scale_bytes)),
            "dtype": "fp8",
            "backend": backend_names(sieve, origin),
            "latency_s": latency,
            "launch": launch_kind(origin),
        },
    )
