"""What profiling a node of eight H200s costs, by replaying the plan and the timing rule; needs torch and no GPU.

    python benchmarks/profiler_gpu_hours.py [--manifest shapes.json] [--prior h100-sxm]

The adaptive plan asks for points as it would on the machine; the bundled fit of H200, with 1 % of noise, answers in its
place. Formats without a price there (W8A8 experts) answer with a constant. Per compute point: operands and graph
capture, warm-up, and samples of at least ``min_s`` (``expected``: samples from graphs agree within 1 % after ten) up to
``max_s`` (``at most``). Points are shared over the ranks, collectives keep all of them busy. Planning is timed.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from costmodel.fitting.prior import Prior
from profiler.collectives.groups import default_levels, group_layouts
from profiler.kernels.available import kernel_backends
from profiler.planning.adaptive import AdaptivePlan
from profiler.planning.grid import FAMILIES, general_grid
from profiler.planning.latency_model import prior_of
from profiler.planning.points_to_measure import wanted_shapes
from profiler.point import COLLECTIVE_FAMILIES, OpShape, Point
from profiler.request import ENERGY_POINTS, ProfileRequest
from profiler.timing import TimingPolicy

DEVICE: Final = "h200-sxm"
SETUP_S: Final = 0.05
ENERGY_S: Final = 7.0
RANKS: Final = 8
CLOCKS: Final = 3
NOISE: Final = 0.01
CONSTANT_S: Final = 1e-5
POINTS_PER_ROUND: Final = 24 * RANKS


def points_of(shapes: list[OpShape]) -> list[Point]:
    """Put every compute shape on the kernels that torch and Triton have for it on a GPU."""
    backends = kernel_backends(torch.device("cuda"))
    return [
        Point(op=op, device=DEVICE, backend=kernel, launch="graph", cache="cold")
        for op in shapes
        if op.family not in COLLECTIVE_FAMILIES
        for backend in backends
        for kernel in backend.kernels_for(op)
    ]


def answers(points: list[Point], truth: Prior) -> dict[object, float]:
    """Latency of every point in seconds: the fit's, with noise."""
    noise = np.exp(np.random.default_rng(0).normal(0.0, NOISE, len(points)))
    found = {}
    for point, factor in zip(points, noise.tolist(), strict=True):
        price_s = prior_of([point], truth)
        found[point.identity] = factor * (CONSTANT_S if price_s is None else float(price_s[0]))
    return found


def replayed(points: list[Point], latency_s: dict[object, float], prior: Prior | None) -> dict[str, Any]:
    """Count the points the plan asks for until it settles, and the time that planning takes."""
    started_s = time.process_time()
    plan = AdaptivePlan(points, target_error=ProfileRequest(db=Path()).target_error, seed=0, prior=prior)
    asked = 0
    while batch := plan.next_points(POINTS_PER_ROUND):
        plan.learn((point, {"status": "ok", "latency_s": latency_s[point.identity]}) for point in batch)
        asked += len(batch)
    planning_s = time.process_time() - started_s
    return {"points": asked, "of": len(points), "error": round(plan.error, 4), "planning_s": round(planning_s, 1)}


def cost(plan: str, compute: int, collectives: int) -> None:
    """Print the GPU-hours of so many points."""
    policy = TimingPolicy()
    for name, sampling_s in (("at most", policy.max_s), ("expected", policy.min_s)):
        point_s = SETUP_S + policy.warmup_s + sampling_s
        hours = {
            "compute_gpu_h": compute * CLOCKS * point_s / 3600,
            "collectives_gpu_h": collectives * point_s * RANKS / 3600,
            "energy_gpu_h": min(compute, ENERGY_POINTS) * CLOCKS * ENERGY_S / 3600,
        }
        total_h = sum(hours.values())
        row = {name: round(value, 2) for name, value in hours.items()} | {"total_gpu_h": round(total_h, 2)}
        print(json.dumps({"plan": plan, "time": name, **row, "wall_minutes": round(total_h / RANKS * 60, 1)}))


def main() -> None:
    """Replay and print one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument(
        "--prior", default="h100-sxm", help="Fit the plan starts from; H200's own would know the answers."
    )
    options = parser.parse_args()
    layouts = group_layouts(RANKS, RANKS, default_levels(RANKS, RANKS, device_kind="cuda", has_nvlink=True))
    if options.manifest:
        shapes = wanted_shapes(ProfileRequest(db=Path(), manifest=options.manifest), "cuda", layouts)
    else:
        shapes = general_grid("cuda", families=FAMILIES, dtypes=("bf16", "fp8", "w8a8"), layouts=layouts)
    points = points_of(shapes)
    collectives = 2 * sum(op.family == "collective" for op in shapes)  # as a graph and eagerly
    truth = Prior.choose(DEVICE, DEVICE)
    assert truth is not None
    latency_s = answers(points, truth)
    print(json.dumps({"compute_points_per_clock": len(points), "collective_points": collectives, "clocks": CLOCKS}))
    cost("every point", len(points), collectives)
    for name, prior in (("adaptive", None), (f"adaptive from {options.prior}", Prior.choose(options.prior, DEVICE))):
        found = replayed(points, latency_s, prior)
        print(json.dumps({"plan": name, **found}))
        # Collectives follow their own plan, of as small a share at most.
        cost(name, found["points"], round(collectives * found["points"] / len(points)))


if __name__ == "__main__":
    main()
