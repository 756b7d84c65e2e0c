"""Predicted against measured serving, row by row: `python -m benchmarks.fidelity --groundtruth DIR`.

``--group TEXT`` picks servers by name, ``--fits DIR`` prices with the engine's own tables there, ``--analytic`` with
constants alone.
"""

import argparse
from functools import partial
from pathlib import Path

from benchmarks.fidelity.errors import errors
from benchmarks.fidelity.fits import analytic_costs, fitted_costs
from benchmarks.fidelity.groups import GROUPS
from benchmarks.fidelity.replay import BASE, Point, bundled_costs_of, read_points, replay_groups
from benchmarks.fidelity.servers.server import ServingGroup
from costmodel.cost_model import CostModel


def main() -> None:
    """Print one line per row and the errors of each server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, required=True)
    parser.add_argument("--fits", type=Path, help="folder of fits by device and framework")
    parser.add_argument("--db", type=Path, help="tables to make the missing ones of them from")
    parser.add_argument("--group", default="")
    parser.add_argument("--analytic", action="store_true")
    parser.add_argument("--brief", action="store_true", help="no row by row lines")
    parser.add_argument("--workers", type=int, default=2, help="processes to replay with")
    options = parser.parse_args()
    costs = bundled_costs_of
    if options.analytic:
        costs = _analytic
    elif options.fits is not None:
        costs = partial(_fitted, fits=options.fits, db=options.db)
    rows = read_points(options.groundtruth / "serving_points.csv")
    groups = [group for group in GROUPS if options.group in group.name]
    found = replay_groups(rows, groups, costs=costs, workers=options.workers)[BASE.name]
    for group in groups:
        points = [point for point in found if point.group.name == group.name]
        if not options.brief:
            for point in sorted(points, key=Point.setting):
                print(_line(point))
        kept = [point for point in points if point.rejected is None]
        print(f"{group.name} ({group.kind}): {len(kept)} of {len(points)} rows")
        for name in ("ttft", "tpot"):
            measured = [point.measured(name) for point in kept]
            own = errors([point.own(name) for point in kept], measured)
            peer = errors([point.peer(name) for point in kept], measured)
            print(f"  {name}: {own}   aiconfigurator: {peer}")


def _analytic(group: ServingGroup) -> CostModel:
    return analytic_costs(group.device)


def _fitted(group: ServingGroup, *, fits: Path, db: Path | None) -> CostModel:
    return fitted_costs(group.device, group.framework, db=db, fits=fits) or analytic_costs(group.device)


def _line(point: Point) -> str:
    _, isl, osl, plan, concurrency = point.setting()
    times = "  ".join(
        f"{name.upper()} {point.measured(name) * 1e3:9.2f} -> {point.own(name) * 1e3:9.2f} ms "
        f"({point.own(name) / point.measured(name) - 1:+7.1%})"
        for name in ("ttft", "tpot")
    )
    return f"{isl:6} {osl:6} {plan:18} c{concurrency:<4} {times}  {point.rejected or point.refused or ''}"


if __name__ == "__main__":
    main()
