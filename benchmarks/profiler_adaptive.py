"""Adaptive against full grid: how many points, and how much measuring time, buy the same held-out error.

    python benchmarks/profiler_adaptive.py --db DIR --device cpu
    python benchmarks/profiler_adaptive.py --db DIR --device h100-sxm --family gemm --dtype bf16

Stored measurements play the oracle: a tenth of the points is held out, the rest is the full grid. The adaptive plan
asks for points of the grid one batch after the other; at 1/50, 1/20, 1/10, 1/5 and 1/3 of it, and with all of it, the
plan's own model and the cost model of `apex fit` are fitted to what is known and judged on the points held out.
"""

import argparse
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.fitting.measured_device import choose_cluster
from costmodel.fitting.prior import Prior
from profiler.planning.adaptive import AdaptivePlan
from profiler.planning.latency_model import LatencyModel, octaves_of, prior_of, work_of
from profiler.point import OpShape, Point, cost_op
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store

SHARES = (1 / 50, 1 / 20, 1 / 10, 1 / 5, 1 / 3)
FEWEST = 13  # the coarse grid of a three-dimensional series


def oracle(options: argparse.Namespace) -> dict[Any, tuple[Point, dict[str, Any]]]:
    """Measured points of one family and format, by identity; repeats become their median."""
    family = FAMILIES[options.family]
    table = open_store(options.db, bundled=None).read(options.family, device=options.device, repeats="median")
    found = {}
    for row in table.to_pylist():
        if options.framework and row["framework"] != options.framework:
            continue
        if row["dtype"] != options.dtype or (options.phase and row.get("phase") != options.phase) or row.get("window"):
            continue
        if options.family == "attention" and (row["kv_dtype"] != options.dtype or row["variant"] != "gqa"):
            continue
        shape = {name: row[name] for name in family.shape_columns}
        op = OpShape.of(options.family, dtype=row["dtype"], **shape)
        point = Point(
            op=op,
            device=row["device"],
            backend=row["backend"],
            launch=row["launch"],
            cache=row["cache"],
            clock_mhz=row["clock_mhz"],
        )
        row.pop("repeats")
        found[point.identity] = (point, row)
    return found


def plan_model_error(
    known: list[tuple[Point, Any]], held_out: list[tuple[Point, Any]], prior: Prior | None
) -> dict[str, float]:
    """Fit the plan's own model to what is known and judge it on the points held out."""
    points = [point for point, _ in (*known, *held_out)]
    x, work = octaves_of(points), work_of(points)
    latency_s = np.array([row["latency_s"] for _, row in (*known, *held_out)])
    count = len(known)
    prior_s = prior_of(points, prior)
    known_prior_s, asked_prior_s = (None, None) if prior_s is None else (prior_s[:count], prior_s[count:])
    model = LatencyModel(x[:count], work[:count], latency_s[:count], known_prior_s)
    return summary(np.log(model.predict_s(x[count:], work[count:], asked_prior_s) / latency_s[count:]))


def summary(errors: Any) -> dict[str, float]:
    """Median and 90th percentile of the absolute errors, and the mean signed one."""
    absolute = np.abs(errors)
    return {
        "median": round(float(np.median(absolute)), 4),
        "p90": round(float(np.quantile(absolute, 0.9)), 4),
        "bias": round(float(np.mean(errors)), 4),
    }


def cost_model_error(
    rows: list[dict[str, Any]], held_out: list[tuple[Point, Any]], device: str, prior: Prior | None
) -> dict[str, float]:
    """Fit the cost model to ``rows`` and judge it on the points held out."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder), bundled=None)
        by_run: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            by_run.setdefault((held_out[0][0].family, row["run_id"]), []).append(row)
        for (family, run_id), part in by_run.items():
            store.append(family, part, run_id)
        cluster = choose_cluster(device, None)
        costs = FittedCosts(fit_device(store, device, cluster, prior=prior), cluster)
        errors = []
        for point, row in held_out:
            op = cost_op(point.op)
            assert op is not None
            errors.append(float(np.log(costs.predict(op).latency_s / row["latency_s"])))
    return summary(np.array(errors))


def sampled(known: dict[Any, Any], options: argparse.Namespace, draw: random.Random) -> list[Any]:
    """Shuffled identities of at most ``--most`` points."""
    chosen = sorted(known, key=str)
    if len(chosen) > options.most and options.family == "gemm":
        # Whole curves in m: a profile measures the (n, k) that plans produce, not single points of many.
        curves = sorted({point.op.values[1:] for point, _ in known.values()}, key=str)
        draw.shuffle(curves)
        kept = set(curves[: int(options.most / (len(chosen) / len(curves)))])
        chosen = [identity for identity in chosen if known[identity][0].op.values[1:] in kept]
    draw.shuffle(chosen)
    return chosen[: options.most]


def main() -> None:
    """Replay the plan and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--family", default="gemm")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--phase", help="attention: prefill or decode")
    parser.add_argument("--most", type=int, default=4000, help="Sample the grid down to so many points.")
    parser.add_argument("--target-error", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--framework", help="Take the rows of one engine's tables alone, e.g. vllm-0.24.0.")
    parser.add_argument("--prior", default="none", help="Fit that the plan and the fit may start from.")
    options = parser.parse_args()
    known = oracle(options)
    draw = random.Random(options.seed)
    chosen = sampled(known, options, draw)
    held_out = [known[identity] for identity in chosen[: len(chosen) // 10]]
    grid = {identity: known[identity] for identity in chosen[len(chosen) // 10 :]}
    prior = Prior.choose(options.prior, options.device)
    results: list[dict[str, Any]] = []

    def judge(name: str, identities: list[Any]) -> None:
        rows = [grid[identity][1] for identity in identities]
        measuring_s = sum(max(10 * row["latency_s"], 0.05) for row in rows)
        result = {"plan": name, "points": len(rows), "measuring_s": round(measuring_s, 1)}
        result["plan_model"] = plan_model_error([grid[identity] for identity in identities], held_out, prior)
        result["cost_model"] = cost_model_error(rows, held_out, options.device, prior)
        results.append(result)
        print(json.dumps(results[-1]), flush=True)

    judge("full grid", list(grid))
    points = [point for point, _ in grid.values()]
    plan = AdaptivePlan(points, target_error=1e-6, seed=options.seed, prior=prior, stall_ratio=math.inf)
    asked: list[Any] = []
    stops = [count for share in SHARES if (count := round(len(grid) * share)) >= FEWEST]
    while stops and (batch := plan.next_points(min(24, stops[0] - len(asked)))):
        plan.learn((point, grid[point.identity][1]) for point in batch)
        asked += [point.identity for point in batch]
        if len(asked) >= stops[0]:
            judge("adaptive", asked)
            judge("random", draw.sample(list(grid), len(asked)))
            stops.pop(0)
    asked, plan = [], AdaptivePlan(points, target_error=options.target_error, seed=options.seed, prior=prior)
    while batch := plan.next_points(24):
        plan.learn((point, grid[point.identity][1]) for point in batch)
        asked += [point.identity for point in batch]
    judge("adaptive, where it stops by itself", asked)


if __name__ == "__main__":
    main()
