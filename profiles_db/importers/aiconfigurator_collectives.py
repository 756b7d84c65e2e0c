"""Collectives of the aiconfigurator wheel: nccl-tests, oneCCL and the engines' own all-reduce kernels.

``message_size`` counts elements of nccl-tests' S.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profiles_db.importers.aiconfigurator_columns import ELEMENT_FORMATS, Mapped, Origin, latency_s, renamed
from profiles_db.importers.counting import Sieve
from profiles_db.importers.rows import Column

_COLLECTIVES: Final[Mapping[str, str]] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}

# A group whose bus bandwidth at its largest message is below this share of the same node's pair is not a link speed.
_SICK_FRACTION: Final = 0.1


def nccl(sieve: Sieve, origin: Origin) -> Mapped:
    """Map nccl-tests (or oneCCL) rows; ``message_size`` is S in elements, timed without a CUDA graph."""
    sieve.drop(
        pc.invert(pc.is_in(sieve.column("op_name"), value_set=pa.array(list(_COLLECTIVES)))),
        "collective without a counterpart",
    )
    sieve.drop_unknown_formats("nccl_dtype", ELEMENT_FORMATS)
    return _collective(sieve, origin, "nccl_dtype", backend=origin.framework, launch="eager")


def custom_allreduce(sieve: Sieve, origin: Origin) -> Mapped:
    """Map the engine's own all-reduce; serving replays it from a CUDA graph, so eager rows are unfit."""
    sieve.drop_unknown_formats("allreduce_dtype", ELEMENT_FORMATS)
    eager = pc.match_substring(sieve.column("kernel_source"), "_eager")
    launch: Column = "graph"
    if origin.include_unfit or not origin.has_graphs:
        launch = pc.if_else(eager, "eager", "graph")
    else:
        sieve.drop(eager, "all-reduce timed eagerly (launch overhead in it)")
    names = {}
    for value in pc.unique(sieve.column("kernel_source")).to_pylist():
        kernel = str(value).removeprefix("TRTLLM").strip("_").lower()
        is_trtllm = str(value).startswith("TRTLLM")
        names[value] = f"trtllm.{kernel or 'all_reduce'}" if is_trtllm else f"{origin.framework}.custom_all_reduce"
    backend = renamed(sieve.column("kernel_source"), names)
    return _collective(sieve, origin, "allreduce_dtype", backend=backend, launch=launch)


def _collective(sieve: Sieve, origin: Origin, dtype_column: str, *, backend: Column, launch: Column) -> Mapped:
    widths = {name: str(width) for name, (_, width) in ELEMENT_FORMATS.items()}
    element_bytes = renamed(sieve.column(dtype_column), widths).cast(pa.int64())
    message_bytes = pc.multiply(sieve.column("message_size"), element_bytes)
    ranks = sieve.column("num_gpus").to_numpy()
    kind = renamed(sieve.column("op_name"), _COLLECTIVES)
    return Mapped(
        family="collective",
        columns={
            "kind": kind,
            "ranks": sieve.column("num_gpus"),
            "nodes": -(-ranks // origin.devices_per_node),
            "level": origin.level,
            "message_bytes": message_bytes,
            "dtype": renamed(sieve.column(dtype_column), {name: dtype for name, (dtype, _) in ELEMENT_FORMATS.items()}),
            "backend": backend,
            "latency_s": latency_s(sieve),
            "launch": launch,
        },
    )


def sick_collectives(rows: pa.Table) -> NDArray[np.bool_]:
    """Mark groups whose bus bandwidth at the largest message collapses against a pair on the same node.

    Measured on a healthy node it falls by at most a factor of four from 2 to 8 ranks, even over PCIe.
    """
    ranks, size = rows["ranks"].to_numpy(), rows["message_bytes"].to_numpy()
    seconds = rows["latency_s"].to_numpy()
    kind = rows["kind"].to_numpy(zero_copy_only=False)
    sick = np.zeros(rows.num_rows, dtype=np.bool_)
    for name in np.unique(kind):
        best = {}
        for group in np.unique(ranks[kind == name]):
            chosen = (kind == name) & (ranks == group)
            largest = chosen & (size == size[chosen].max())
            factor = (2.0 if name == "all_reduce" else 1.0) * (group - 1) / group
            best[group] = float(np.max(size[largest] / seconds[largest]) * factor)
        for group, speed in best.items():
            if 2 in best and speed < _SICK_FRACTION * best[2]:
                sick |= (kind == name) & (ranks == group)
    return sick
