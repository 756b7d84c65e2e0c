"""What the fewest points that a fit takes buy: the numbers that `--dry-run` expects of a label of six points.

    python benchmarks/profiler_least.py --db DIR --device h200-sxm --device b200 --device l40s

Stored measurements play the oracle. A user's model has a handful of shapes, so each trial draws a few (n, k) of
products, heads of attention, or sizes of experts, and all rows of one kind of collective; the plan chooses the fewest
points, `apex fit` takes them without an earlier fit, and all other rows judge it.
"""

import argparse
import json
import random
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from benchmarks.profiler_adaptive import cost_model_error
from cluster_specs.errors import UserError
from costmodel.families.family import FEWEST_POINTS
from profiler.planning.adaptive import AdaptivePlan
from profiler.planning.series import in_labels
from profiler.point import OpShape, Point
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store

# By family: columns that tell shapes from sizes, how many shapes a trial draws, and columns that tell trials apart.
TRIALS: Final[dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]]] = {
    "gemm": (("n", "k"), 4, ("dtype",)),
    "attention": (("num_heads", "num_kv_heads", "head_dim"), 1, ("phase", "variant", "dtype", "kv_dtype", "window")),
    "moe": (("hidden", "inter", "num_experts", "topk", "tp", "ep"), 1, ("dtype", "routing")),
    "elementwise": (("width",), 3, ("op", "dtype")),
    "collective": (("ranks",), 1, ("kind", "level", "nodes")),
}
_MOST_ROWS: Final = 400


def trial(rows: list[dict[str, Any]], family: str, seed: int) -> dict[str, float] | None:
    """Fit the fewest points of these rows and judge all others; None where a fit has too few."""
    known = {}
    for row in rows:
        op = OpShape.of(family, dtype=row["dtype"], **{name: row[name] for name in FAMILIES[family].shape_columns})
        context = {name: row[name] for name in ("device", "backend", "launch", "cache", "clock_mhz")}
        point = Point(op=op, **context)
        known[point.identity] = point, row
    points = [point for point, _ in known.values()]
    wanted = FEWEST_POINTS * len(in_labels(points))
    if len(points) < 3 * wanted:
        return None
    plan = AdaptivePlan(points, target_error=1e-6, seed=seed)
    chosen: list[Any] = []
    while len(chosen) < wanted:
        batch = plan.next_points(wanted - len(chosen))
        plan.learn((point, known[point.identity][1]) for point in batch)
        chosen += [point.identity for point in batch]
    held_out = [known[identity] for identity in sorted(known.keys() - set(chosen), key=str)]
    random.Random(seed).shuffle(held_out)
    try:
        return cost_model_error([known[identity][1] for identity in chosen], held_out[:100], rows[0]["device"], None)
    except UserError:  # rows of another contract or of an engine's own small messages are left out by the fit
        return None


def trials(table: pa.Table, family: str, count: int, draw: random.Random) -> list[dict[str, float]]:
    """Draw so many trials of one family's rows."""
    shape, shapes, apart = TRIALS[family]
    kinds: dict[Any, dict[Any, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in table.to_pylist():
        row.pop("repeats")
        kind = *(row[name] for name in apart), row["backend"], row["framework"], row["launch"], row["cache"]
        kinds[kind][tuple(row[name] for name in shape)].append(row)
    found = []
    for _ in range(20 * count):
        by_shape = kinds[draw.choice(sorted(kinds, key=str))]
        chosen = draw.sample(sorted(by_shape), min(shapes, len(by_shape)))
        rows = [row for key in chosen for row in by_shape[key]]
        errors = trial(draw.sample(rows, min(len(rows), _MOST_ROWS)), family, draw.randrange(1000))
        found += [errors] if errors is not None else []
        if len(found) == count:
            break
    return found


def main() -> None:
    """Run the trials and print a line per device and family, and one per family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--device", action="append", required=True)
    parser.add_argument("--trials", type=int, default=8, help="Of each device and family.")
    parser.add_argument("--family", action="append", choices=list(TRIALS), help="All without it.")
    options = parser.parse_args()
    store = open_store(options.db, bundled=None)
    for family in options.family or TRIALS:
        medians: list[float] = []
        p90s: list[float] = []
        for device in options.device:
            table = store.read(family, device=device, repeats="median")
            for errors in trials(table, family, options.trials, random.Random(f"{device} {family}")):
                medians.append(errors["median"])
                p90s.append(errors["p90"])
        if medians:
            middle, outer = (round(statistics.median(errors), 3) for errors in (medians, p90s))
            print(json.dumps({"family": family, "trials": len(medians), "median": middle, "p90": outer}), flush=True)


if __name__ == "__main__":
    main()
