"""Peak memory and time of ten million streamed requests; run ``python benchmarks/engine_memory.py [--json]``."""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

from simulator.engine.stream import run_stream
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.results.metrics import summarise_stream
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=256,
    max_num_batched_tokens=8192,
    max_model_len=16_384,
    block_size=16,
    num_gpu_blocks=40_000,
)


def chat(n: int, part: int, rate_per_s: float) -> Iterator[Workload]:
    """Poisson arrivals in parts of ``part`` requests, exponential lengths with means 550 and 250."""
    rng = np.random.default_rng(0)
    start = 0.0
    for at in range(0, n, part):
        size = min(part, n - at)
        arrival = start + np.cumsum(rng.exponential(1 / rate_per_s, size))
        start = float(arrival[-1])
        yield Workload(
            name=f"chat from {at}",
            arrival_s=arrival,
            prompt_tokens=np.clip(rng.exponential(550, size), 1, 8_000).astype(np.int64),
            output_tokens=np.clip(rng.exponential(250, size), 1, 4_000).astype(np.int64),
        )


def main() -> None:
    """Serve the stream on one replica and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--part", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    tables = linear_tables(
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        step_ps=10_000_000_000,
        token_ps=58_000_000,
        decode_kv_ps=27_000,
        kv_knots=(0, 4096, 16384, 65536, 262144, 1 << 20),
        host_step_ps=1_500_000_000,
    )
    start = time.perf_counter()
    metrics = summarise_stream(run_stream(tables, LIMITS, chat(arguments.requests, arguments.part, 11.0)))
    seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if arguments.json:
        taken = {"finished": metrics.finished, "steps": metrics.steps, "seconds": seconds, "peak_bytes": peak_bytes}
        print(json.dumps(taken, indent=2))
        return
    print(
        f"{metrics.finished:,} requests, {metrics.steps:,} steps in {seconds:.1f} s "
        f"({metrics.finished / seconds:,.0f} requests/s), peak {peak_bytes / 2**20:,.0f} MiB, "
        f"ttft p99 {metrics.ttft_s.p99:.3f} s, batch {metrics.mean_batch_seqs:.1f}"
    )


if __name__ == "__main__":
    main()
