"""Our timing beside Triton's `do_bench`, on the same kernels and operands.

`do_bench` times one launch between two events after clearing the cache: for short kernels the host's launch leaks in.
`do_bench_cudagraph` replays calls on one buffer: weights stay in the cache. Ours replays calls over rotating buffers
(cold) or on one (hot). Source: triton.testing.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from profiler.backend import Unsupported
from profiler.bench import Bench
from profiler.planning.grid import attention_shape
from profiler.point import OpShape

_GEMMS: Final = (
    *((m, 8192, 8192) for m in (1, 16, 64, 256, 1024, 8192)),
    *((m, 57344, 8192) for m in (1, 64, 4096)),
    *((m, 1280, 8192) for m in (1, 64, 4096)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerComparison:
    """Seconds per call of one kernel by each way of timing."""

    op: str
    backend: str
    cold_s: float
    hot_s: float
    do_bench_s: float
    do_bench_cudagraph_s: float


def compared_ops(dtypes: tuple[str, ...]) -> list[OpShape]:
    """Return GEMMs from launch-bound to compute-bound in every format, and a prefill and a decode attention."""
    gemms = [
        OpShape.of("gemm", dtype=d, m=m, n=n, k=k, scaling="none" if d == "bf16" else "row", quantise=False)
        for d in dtypes
        for m, n, k in _GEMMS
    ]
    attention = [
        attention_shape("bf16", (32, 8, 128), prefill=(1, 4096, 4096)),
        attention_shape("bf16", (32, 8, 128), decode=(64, 2048, 2048)),
    ]
    return [*gemms, *attention]


def compare_timers(bench: Bench, op: OpShape, device_name: str) -> TimerComparison | None:
    """Time one op all four ways; None where no kernel runs it here."""
    from triton import testing

    points = bench.place(op, device_name=device_name, cache="cold")
    if not points:
        return None
    cold, hot = (
        bench.measure(point)[-1]["latency_s"]
        for point in (points[0], bench.place(op, device_name=device_name, cache="hot")[0])
    )
    if cold is None or hot is None:
        return None
    try:
        prepared = bench.prepare(points[0])
    except Unsupported:
        return None
    eager_ms = testing.do_bench(lambda: prepared.launch(0), return_mode="median")
    graph_ms = testing.do_bench_cudagraph(lambda: prepared.launch(0), return_mode="median")
    return TimerComparison(
        op=str(op),
        backend=points[0].backend,
        cold_s=cold,
        hot_s=hot,
        do_bench_s=float(eager_ms) * 1e-3,
        do_bench_cudagraph_s=float(graph_ms) * 1e-3,
    )


def save_timers(rows: list[TimerComparison], path: Path) -> None:
    """Write all comparisons as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), path)
