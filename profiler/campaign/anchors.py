"""Whole-step anchors: steps to measure, the kernels they are made of, and how far the sum is from the whole."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Unsupported
from profiler.kernels.step_backend import StepBackend
from profiler.kernels.step_ops import layer_ops, step_shape
from profiler.planning.points_to_measure import serving_cache
from profiler.point import OpShape
from profiles_db.parquet_files import write_parquet
from profiles_db.schema import FAMILIES
from profiles_db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class _Anchors:
    """Models with their tensor parallelism, and the batches of each."""

    models: tuple[tuple[str, int], ...]
    dtypes: tuple[str, ...]
    layers: int
    decodes: tuple[tuple[int, int], ...]
    prefills: tuple[tuple[int, int, int], ...]
    mixed: tuple[tuple[tuple[int, int, int], tuple[int, int]], ...]


# Families of the kernels that a step is made of.
PARTS: Final = ("gemm", "attention", "elementwise")
# A whole small model and one rank's share of a large one, in enough layers that the graph's own launch weighs what it
# does in a real step. A CPU core gets a share of a tiny model: the same code, another size.
_ANCHORS: Final = {
    "cuda": _Anchors(
        models=(("llama-3.1-8b", 1), ("llama-3.1-70b", 8)),
        dtypes=("bf16", "fp8"),
        layers=8,
        decodes=((1, 1024), (32, 1024), (128, 2048)),
        prefills=((1, 512, 512), (1, 4096, 4096)),
        mixed=(((1, 1024, 1024), (64, 1024)),),
    ),
    "cpu": _Anchors(
        models=(("llama-3.2-1b", 4),),
        dtypes=("bf16", "fp8", "w8a8"),
        layers=2,
        decodes=((8, 256),),
        prefills=((1, 64, 64),),
        mixed=(((1, 32, 32), (4, 256)),),
    ),
}


_STEPS: Final = pa.schema([("step", pa.string()), ("measured_s", pa.float64()), ("summed_s", pa.float64())])


def anchor_steps(device_kind: str, dtypes: Iterable[str]) -> list[OpShape]:
    """Return decode, prefill and mixed steps of every model and each format of them for ``cuda`` or ``cpu``."""
    anchors = _ANCHORS[device_kind]
    batches: list[dict[str, tuple[int, ...]]] = [{"decode": decode} for decode in anchors.decodes]
    batches += [{"prefill": prefill} for prefill in anchors.prefills]
    batches += [{"prefill": prefill, "decode": decode} for prefill, decode in anchors.mixed]
    return [
        step_shape(model, dtype=dtype, tp=tp, layers=anchors.layers, **batch)  # type: ignore[arg-type]  # sizes vary
        for model, tp in anchors.models
        for dtype in anchors.dtypes
        if dtype in dtypes
        for batch in batches
    ]


def grouped(steps: Sequence[OpShape]) -> list[list[OpShape]]:
    """Return the steps model by model and format by format: each group has all its parts before the next begins."""
    groups: dict[tuple[str, str], list[OpShape]] = {}
    for step in steps:
        groups.setdefault((step.shape["model"], step.dtype), []).append(step)
    return list(groups.values())


def with_parts(steps: Sequence[OpShape]) -> list[OpShape]:
    """Return steps and the kernels that they are made of."""
    return [*steps, *(part for step in steps for part in layer_ops(step))]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComparison:
    """One step: measured as a whole, and as the sum of its parts."""

    step: str
    measured_s: float
    summed_s: float

    @property
    def error(self) -> float:
        """Signed error of the sum."""
        return self.summed_s / self.measured_s - 1.0


def compare_steps(store: Store, device: str, steps: Sequence[OpShape], backend: StepBackend) -> list[StepComparison]:
    """Compare every step of which the whole and all parts are stored."""
    times = {family: _times(store, device, family) for family in ("step", *PARTS)}
    found = []
    for step in steps:
        measured = times["step"].get((*step.values, step.dtype, "apex.layer_stack"))
        try:
            parts = [times[op.family].get((*op.values, op.dtype, backend.kernel_of(op)[1])) for op in layer_ops(step)]
        except Unsupported:
            continue
        known = [part for part in parts if part is not None]
        if measured is not None and len(known) == len(parts):
            summed = step.shape["layers"] * sum(known)
            found.append(StepComparison(step=str(step), measured_s=measured, summed_s=summed))
    return found


def save_steps(comparisons: Sequence[StepComparison], path: Path) -> None:
    """Write all comparisons as one Parquet file."""
    write_parquet(pa.Table.from_pylist([asdict(comparison) for comparison in comparisons], schema=_STEPS), path)


def _times(store: Store, device: str, family: str) -> dict[tuple[Any, ...], float]:
    columns = (*FAMILIES[family].shape_columns, "dtype", "backend")
    where = {"cache": serving_cache(family), "clock_mhz": None}
    table = store.read(family, device=device, columns=[*columns, "latency_s"], where=where)
    return {tuple(row[name] for name in columns): row["latency_s"] for row in table.to_pylist()}
