"""Predicted against measured serving, row by row: `python -m benchmarks.fidelity --groundtruth DIR --fits DIR`.

``--group TEXT`` picks groups by name, ``--analytic`` takes constants instead of fitted tables.
"""

import argparse
from pathlib import Path

from benchmarks.fidelity.errors import errors
from benchmarks.fidelity.fits import analytic_costs, fitted_costs
from benchmarks.fidelity.groups import GROUPS
from benchmarks.fidelity.replay import Point, read_points, replay_group


def main() -> None:
    """Print one line per row and the errors of each group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, required=True)
    parser.add_argument("--fits", type=Path, default=Path())
    parser.add_argument("--db", type=Path)
    parser.add_argument("--group", default="")
    parser.add_argument("--analytic", action="store_true")
    parser.add_argument("--brief", action="store_true", help="no row by row lines")
    options = parser.parse_args()
    rows = read_points(options.groundtruth / "serving_points.csv")
    for group in GROUPS:
        if options.group not in group.name:
            continue
        fitted = (
            None if options.analytic else fitted_costs(group.device, group.framework, db=options.db, fits=options.fits)
        )
        points = replay_group(rows, group, fitted or analytic_costs(group.device))
        if not options.brief:
            for point in sorted(points, key=_setting):
                print(_line(point))
        kept = [point for point in points if point.rejected is None]
        print(f"{group.name}: {len(kept)} of {len(points)} rows")
        for name in ("ttft", "tpot"):
            measured = [getattr(point, f"measured_{name}_s") for point in kept]
            own = errors([getattr(point, f"{name}_s") for point in kept], measured)
            print(f"  {name}: {own}   aiconfigurator: {errors([point.peer(name) for point in kept], measured)}")


def _setting(point: Point) -> tuple[int, int, str, int]:
    return int(point.row["isl"]), int(point.row["osl"]), point.plan, int(point.row["concurrency"])


def _line(point: Point) -> str:
    isl, osl, plan, concurrency = _setting(point)
    times = "  ".join(
        f"{name.upper()} {measured * 1e3:9.2f} -> {own * 1e3:9.2f} ms ({own / measured - 1:+7.1%})"
        for name, measured, own in (
            ("ttft", point.measured_ttft_s, point.ttft_s),
            ("tpot", point.measured_tpot_s, point.tpot_s),
        )
    )
    return f"{isl:6} {osl:6} {plan:18} c{concurrency:<4} {times}  {point.rejected or point.refused or ''}"


if __name__ == "__main__":
    main()
