"""Our timing beside Triton's `do_bench`, on the same kernels and operands.

`do_bench` times one launch between two events after clearing the cache: for short kernels the host's launch leaks in.
`do_bench_cudagraph` replays calls on one buffer: weights stay in the cache. Ours replays calls over rotating buffers
(cold) or on one (hot). A way that cannot time a kernel leaves null and a note. Source: triton.testing.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from cluster_specs.errors import UserError
from cluster_specs.files.whole import make_folder
from cluster_specs.lazy_dataclass import dataclass
from profiler.bench import Bench
from profiler.planning.grid import attention_shape, product_shape
from profiler.point import OpShape
from profiles_db.parquet_files import write_parquet

# (format, m, n, k) from launch-bound to compute-bound.
_GEMMS: Final = {
    "cuda": (
        *(("bf16", m, 8192, 8192) for m in (1, 64, 1024, 8192)),
        *(("bf16", 64, 57344, 8192), ("bf16", 1, 1280, 8192)),
        *((dtype, m, 8192, 8192) for dtype in ("fp8", "w8a8") for m in (64, 4096)),
    ),
    "cpu": (("bf16", 1, 1024, 1024), ("bf16", 64, 1024, 1024), ("fp8", 64, 1024, 1024), ("w8a8", 64, 1024, 1024)),
}
# (query heads, KV heads, head_dim), prefill (chunks, q, kv), decode (sequences, mean, max)
_ATTENTION: Final = {
    "cuda": ((32, 8, 128), (1, 4096, 4096), (64, 2048, 2048)),
    "cpu": ((8, 2, 64), (1, 128, 128), (4, 256, 256)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerComparison:
    """Seconds per call of one kernel by each way of timing."""

    op: str
    backend: str | None = None
    cold_s: float | None = None
    hot_s: float | None = None
    do_bench_s: float | None = None
    do_bench_cudagraph_s: float | None = None
    note: str | None = None


_NUMBERS: Final = ("cold_s", "hot_s", "do_bench_s", "do_bench_cudagraph_s")
_SCHEMA: Final = pa.schema(
    [(name, pa.float64() if name in _NUMBERS else pa.string()) for name in TimerComparison.__dataclass_fields__]
)


def compared_ops(device_kind: str, dtypes: tuple[str, ...]) -> list[OpShape]:
    """Return products of the formats asked for, and a prefill and a decode attention."""
    gemms = [product_shape(dtype, m, n, k) for dtype, m, n, k in _GEMMS[device_kind] if dtype in dtypes]
    heads, prefill, decode = _ATTENTION[device_kind]
    return [*gemms, attention_shape("bf16", heads, prefill=prefill), attention_shape("bf16", heads, decode=decode)]


def compare_timers(bench: Bench, op: OpShape, device_name: str) -> TimerComparison:
    """Time one op all four ways."""
    cold, hot = (bench.place(op, device_name=device_name, cache=cache)[:1] for cache in ("cold", "hot"))
    if not cold:
        return TimerComparison(op=str(op), note="no kernel here")
    backend = cold[0].backend
    first, second = bench.measure(cold[0])[-1], bench.measure(hot[0])[-1]
    cold_s, hot_s = first.get("latency_s"), second.get("latency_s")
    note = first["note"] if cold_s is None else second["note"] if hot_s is None else None
    ours = TimerComparison(op=str(op), backend=backend, cold_s=cold_s, hot_s=hot_s, note=note)
    if note is not None:
        return ours
    if bench.device.type != "cuda":
        return replace(ours, note="do_bench times GPUs")
    try:
        from triton import testing

        prepared = bench.prepare(cold[0])
        eager_ms = testing.do_bench(lambda: prepared.launch(0), return_mode="median")
        graph_ms = testing.do_bench_cudagraph(lambda: prepared.launch(0), return_mode="median")
    except (ImportError, RuntimeError) as error:
        return replace(ours, note=f"do_bench: {error}"[:300])
    return replace(ours, do_bench_s=float(eager_ms) * 1e-3, do_bench_cudagraph_s=float(graph_ms) * 1e-3)


def load_timers(path: Path) -> list[TimerComparison]:
    """Read the comparisons an earlier slice has made; raises ``UserError`` for a file that holds none."""
    if not path.exists():
        return []
    try:
        return [TimerComparison(**row) for row in pq.read_table(path, schema=_SCHEMA).to_pylist()]
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: holds no comparisons of timers: {str(error).splitlines()[0]}",
            hint="remove it: they are measured again",
        ) from error


def save_timers(rows: Sequence[TimerComparison], path: Path) -> None:
    """Write all comparisons as one Parquet file."""
    make_folder(path.parent)
    write_parquet(pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA), path)
