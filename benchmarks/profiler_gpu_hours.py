"""What a full profile of a node of eight GPUs costs, calculated from the plan and the timing rule; needs no GPU.

    python benchmarks/profiler_gpu_hours.py [--manifest shapes.json]

Per compute point: operands and graph capture, warm-up, and samples of at least ``min_s`` up to ``max_s``; points are
shared over the ranks, collectives keep all of them busy. ``at most`` lets every point run to its cap, ``expected`` lets
it settle at the least time (GPU samples from graphs agree within 1 % after ten). The adaptive plan's share of the grid
is the one `profiler_adaptive.py` finds for GEMM on imported H100 tables.
"""

import argparse
import json
from pathlib import Path

from profiler.collectives.groups import default_levels, group_layouts
from profiler.planning.grid import FAMILIES, general_grid
from profiler.planning.workload import wanted_shapes
from profiler.point import COLLECTIVE_FAMILIES, OpShape
from profiler.request import ProfileRequest
from profiler.session import ENERGY_POINTS
from profiler.timing import TimingPolicy

SETUP_S = 0.05
ENERGY_S = 7.0
RANKS = 8
CLOCKS = 3
ADAPTIVE_SHARE = 0.10
# Kernels beside torch's that an op is measured on too.
KERNELS = {"moe": 2, "elementwise": 2}


def main() -> None:
    """Print the calculation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path)
    options = parser.parse_args()
    layouts = group_layouts(RANKS, RANKS, default_levels(RANKS, RANKS, device_kind="cuda", has_nvlink=True))
    dtypes = ("bf16", "fp8", "w8a8")
    if options.manifest:
        request = ProfileRequest(db=Path(), manifest=options.manifest)
        shapes: list[OpShape] = wanted_shapes(request, "cuda", layouts)
    else:
        shapes = general_grid("cuda", families=FAMILIES, dtypes=dtypes, layouts=layouts)
    policy = TimingPolicy()
    counts = {family: sum(op.family == family for op in shapes) for family in FAMILIES}
    compute = sum(
        count * KERNELS.get(family, 1) for family, count in counts.items() if family not in COLLECTIVE_FAMILIES
    )
    collectives = counts["collective"] * 2  # as a graph and eagerly
    cost_s = {"at most": SETUP_S + policy.warmup_s + policy.max_s, "expected": SETUP_S + policy.warmup_s + policy.min_s}
    print(json.dumps({"shapes": counts, "compute_points_per_clock": compute, "collective_points": collectives}))
    for plan, share in (("every point", 1.0), ("adaptive", ADAPTIVE_SHARE)):
        for name, point_s in cost_s.items():
            compute_h = compute * share * CLOCKS * point_s / 3600
            collective_h = collectives * share * point_s * RANKS / 3600
            energy_h = min(compute * share, ENERGY_POINTS) * CLOCKS * ENERGY_S / 3600
            row = {
                "plan": plan,
                "time": name,
                "compute_gpu_h": round(compute_h, 2),
                "collectives_gpu_h": round(collective_h, 2),
                "energy_gpu_h": round(energy_h, 2),
                "total_gpu_h": round(compute_h + collective_h + energy_h, 2),
                "wall_minutes": round((compute_h + collective_h + energy_h) / RANKS * 60, 1),
            }
            print(json.dumps(row))


if __name__ == "__main__":
    main()
