"""Speed of the engine on one core: requests simulated per second, warm, best of several; compile and start times.

Run ``python benchmarks/engine.py``; ``--json`` prints the numbers for ``docs/performance.md``. The tables are linear
(a 70B model on four H100s in round numbers), so that the engine alone is timed. A load of 70 % is 70 % of the rate the
same replica reaches with its queue never empty.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.engine.native.load import compiled_object
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.results.metrics import summarise
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.workload import ClosedLoop, OpenLoop, PrefixBlocks, Workload

TRACES = Path(__file__).resolve().parents[2] / "shared" / "groundtruth" / "traces"


def tables(limits: EngineLimits) -> StepTables:
    """Cost of a step: 10 ms for the weights, 58 us per token, 27 ns per token of KV."""
    return linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=10_000_000_000,
        token_ps=58_000_000,
        sample_seq_ps=300_000,
        decode_seq_ps=200_000,
        decode_kv_ps=27_000,
        pair_ps=30,
        kv_read_ps=9_000,
        kv_knots=(0, 4096, 16384, 65536, 262144, 1 << 20),
        host_step_ps=1_500_000_000,
        host_seq_ps=14_000_000,
    )


LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=256,
    max_num_batched_tokens=8192,
    max_model_len=131_072,
    block_size=16,
    num_gpu_blocks=40_000,
)


def best_of(run: Callable[[], object], repeats: int) -> float:
    """Shortest wall time of ``repeats`` runs in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def chat(n: int, rate_per_s: float) -> Workload:
    """Poisson arrivals, exponential lengths with means 550 and 250."""
    rng = np.random.default_rng(0)
    return Workload(
        name=f"chat {rate_per_s:.1f}/s",
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, n)),
        prompt_tokens=np.clip(rng.exponential(550, n), 1, 16_000).astype(np.int64),
        output_tokens=np.clip(rng.exponential(250, n), 1, 4_000).astype(np.int64),
        client=OpenLoop(),
    )


def closed(n: int, prompt: int, output: int, concurrency: int) -> Workload:
    """Build a benchmark client: lengths uniform in 0.8 to 1.0 of nominal, a fixed number of requests in flight."""
    rng = np.random.default_rng(0)
    return Workload(
        name=f"closed {prompt}/{output} at {concurrency}",
        arrival_s=np.zeros(n),
        prompt_tokens=rng.integers(int(prompt * 0.8), prompt + 1, n),
        output_tokens=rng.integers(int(output * 0.8), output + 1, n),
        client=ClosedLoop(concurrency=concurrency),
    )


def mooncake() -> Workload | None:
    """Read the Mooncake conversation trace with its 512-token prefix blocks, if it is there."""
    path = TRACES / "mooncake_conversation.jsonl"
    if not path.exists():
        return None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ids = [row["hash_ids"] for row in rows]
    return Workload(
        name="mooncake",
        arrival_s=np.array([row["timestamp"] for row in rows]) * 1e-3,
        prompt_tokens=np.array([row["input_length"] for row in rows]),
        output_tokens=np.array([row["output_length"] for row in rows]),
        prefix=PrefixBlocks(
            block_tokens=512,
            offsets=np.concatenate([[0], np.cumsum([len(x) for x in ids])]),
            ids=np.array([x for row in ids for x in row]),
        ),
    )


def main() -> None:
    """Time every case and print requests per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    costs = tables(LIMITS)
    start = time.process_time()
    compiled_object()
    results: dict[str, dict[str, float]] = {"compilation": {"cpu_s": time.process_time() - start}}
    full = summarise(run_replicas(costs, LIMITS, closed(4_000, 550, 250, 512)))
    capacity = full.throughput_requests_per_s
    cases: list[tuple[str, Workload, EngineLimits, int]] = [
        ("chat 10,000 at 70 % load", chat(10_000, 0.7 * capacity), LIMITS, 1),
        ("chat 10,000 at 30 % load", chat(10_000, 0.3 * capacity), LIMITS, 1),
        ("chat 2,000 at 70 % load", chat(2_000, 0.7 * capacity), LIMITS, 1),
        ("chat 10,000 at 70 % load, dp 4", chat(10_000, 2.8 * capacity), LIMITS, 4),
        ("closed 1k/1k at 64, 640", closed(640, 1024, 1024, 64), LIMITS, 1),
        ("closed 8k/1k at 256, 2,560", closed(2_560, 8192, 1024, 256), replace(LIMITS, num_gpu_blocks=150_000), 1),
        ("chat 10,000 overloaded", chat(10_000, 3.0 * capacity), LIMITS, 1),
        ("chat 10,000 thrashing", chat(10_000, 3.0 * capacity), replace(LIMITS, num_gpu_blocks=4_000), 1),
    ]
    trace = mooncake()
    if trace is not None:
        cases.append(("mooncake with prefix hashes", trace, replace(LIMITS, enable_prefix_caching=True), 4))
    for name, workload, limits, dp in cases:
        result = run_replicas(costs, limits, workload, dp=dp)
        seconds = best_of(lambda w=workload, lim=limits, d=dp: run_replicas(costs, lim, w, dp=d), arguments.repeats)
        metrics = summarise(result)
        results[name] = {
            "seconds": seconds,
            "requests_per_s": len(workload) / seconds,
            "iterations_per_s": metrics.steps / seconds,
            "mean_batch_seqs": metrics.mean_batch_seqs,
            "utilisation_frac": metrics.utilisation_frac,
            "preemptions": metrics.preemptions,
            "prefix_hit_frac": metrics.prefix_hit_frac,
        }
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for name, row in results.items():
        print(f"{name:36}" + "  ".join(f"{key} {value:,.4g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
