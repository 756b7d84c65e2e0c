"""Predicted against measured serving: mean TTFT and TPOT of public benchmark runs, replayed with nothing tuned to them.

    python benchmarks/fidelity.py --points serving_points.csv --costs h200-sxm.fit.parquet --device h200-sxm

Each row states engine, model, plan, lengths and concurrency; server settings are those of the public launch files
(FP8 KV with FP8 checkpoints, prefix caching off, `max_num_seqs` = concurrency, 8192 batched tokens). Errors are
predicted / measured - 1.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster_specs.load import load_cluster
from costmodel.predict import load_costs
from simulator.engine_profile import load_profile
from simulator.model.bundled import load_model
from simulator.op_curves import OpCurves
from simulator.plan import Plan, parse_plan
from simulator.serving import Overrides, Refusal, Serving
from simulator.simulate import replay
from simulator.workload.parse import parse_workload

_MODELS = {
    "meta-llama/Llama-3.1-70B": ("llama-3.1-70b", "w.fp8-kv.fp8"),
    "openai/gpt-oss-120b": ("gpt-oss-120b", ""),
    "MiniMaxAI/MiniMax-M2.5": ("minimax-m2.5", ""),
    "Qwen/Qwen3-32B": ("qwen3-32b", ""),
    "deepseek-ai/DeepSeek-R1": ("deepseek-v3", ""),
    "nvidia/Llama-3.1-8B-Instruct-FP8": ("llama-3.1-8b", "w.fp8-kv.fp8"),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama-3.1-8b", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured run and what the simulator says of it."""

    name: str
    plan: Plan
    isl: int
    osl: int
    concurrency: int
    measured_ttft_s: float
    measured_tpot_s: float
    ttft_s: float
    tpot_s: float


def replay_points(path: Path, device: str, costs_path: Path | None, model: str, profile: str) -> Iterator[Point]:
    """Replay the rows of one model on one device; a row that cannot be replayed is named on stderr."""
    cluster = load_cluster(f"{device}-8")
    costs = load_costs(costs_path, cluster)
    priced: dict[float | None, OpCurves] = {}
    for row in csv.DictReader(path.open(encoding="utf-8")):
        if row["model_path"] != model or row["system"] != device.replace("-", "_"):
            continue
        bundled, formats = _MODELS[model]
        isl, osl, concurrency = int(row["isl"]), int(row["osl"]), int(row["concurrency"])
        plan = parse_plan(f"tp{row['tp_size']}" + (f"-{formats}" if formats else ""))
        serving = Serving(
            model=load_model(bundled),
            cluster=cluster,
            profile=load_profile(profile),
            costs=lambda _clock: costs,
            overrides=Overrides(
                max_num_seqs=concurrency,
                max_num_batched_tokens=8192,
                max_model_len=isl + osl + 200,
                gpu_memory_utilization=0.9,
                enable_prefix_caching=False,
            ),
            priced=priced,
        )
        workload = parse_workload(f"closed:isl={isl},osl={osl},concurrency={concurrency}")
        start = serving.start(plan, workload)
        if isinstance(start, Refusal):
            print(f"not replayed: {row['id']}: {start.reason}", file=sys.stderr)
            continue
        metrics = replay(serving, start, workload).metrics
        yield Point(
            name=row["id"],
            plan=plan,
            isl=isl,
            osl=osl,
            concurrency=concurrency,
            measured_ttft_s=float(row["silicon_ttft_ms"]) / 1e3,
            measured_tpot_s=float(row["silicon_tpot_ms"]) / 1e3,
            ttft_s=metrics["ttft_s"]["mean"],
            tpot_s=metrics["tpot_s"]["mean"],
        )


def error_line(name: str, predicted: np.ndarray, measured: np.ndarray) -> str:
    """MAPE, median and signed bias in percent."""
    error = 100 * (predicted / measured - 1)
    return (
        f"{name}: {len(error)} rows, MAPE {np.abs(error).mean():.1f} %, median {np.median(np.abs(error)):.1f} %, "
        f"bias {error.mean():+.1f} %"
    )


def main() -> None:
    """Print one line per run and the errors over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, required=True)
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--device", default="h200-sxm")
    parser.add_argument("--model", default="meta-llama/Llama-3.1-70B", choices=sorted(_MODELS))
    parser.add_argument("--engine", default="vllm-0.11")
    options = parser.parse_args()
    points = list(replay_points(options.points, options.device, options.costs, options.model, options.engine))
    for point in sorted(points, key=lambda p: (p.isl, p.osl, p.plan.tp, p.concurrency)):
        print(
            f"{point.isl:6} {point.osl:6} {point.plan!s:18} c{point.concurrency:<4} "
            f"TTFT {point.measured_ttft_s * 1e3:9.1f} -> {point.ttft_s * 1e3:9.1f} ms "
            f"({100 * (point.ttft_s / point.measured_ttft_s - 1):+6.1f} %)  "
            f"TPOT {point.measured_tpot_s * 1e3:7.2f} -> {point.tpot_s * 1e3:7.2f} ms "
            f"({100 * (point.tpot_s / point.measured_tpot_s - 1):+6.1f} %)"
        )
    for name in ("ttft_s", "tpot_s"):
        predicted = np.array([getattr(point, name) for point in points])
        measured = np.array([getattr(point, f"measured_{name}") for point in points])
        print(error_line(name, predicted, measured))


if __name__ == "__main__":
    main()
