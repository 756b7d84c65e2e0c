"""Predicted against measured serving, row by row: `python -m benchmarks.fidelity --groundtruth DIR`.

``--server TEXT`` picks servers by name; ``--costs FILE`` prices with that fit, ``--costs analytic`` with constants.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.fidelity.page.engines import own_errors, peer_errors
from benchmarks.fidelity.page.tables import spelled
from benchmarks.fidelity.replay import BASE, Point, replay, trusted
from benchmarks.fidelity.rows import METRICS, Row, read_rows
from simulator.validation.measured_run import UnusableRun


def main() -> None:
    """Print one line per row and the errors of each server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, required=True)
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--server", default="")
    parser.add_argument("--brief", action="store_true", help="no row by row lines")
    parser.add_argument("--workers", type=int, default=2, help="processes to replay with")
    options = parser.parse_args()
    rows = [row for row in read_rows(options.groundtruth / "serving_points.csv") if options.server in row.server.name]
    found = replay([_priced(row, options.costs) for row in rows], workers=options.workers)[BASE.name]
    for server in dict.fromkeys(row.server.name for row in rows):
        points = [point for point in found if point.row.server.name == server]
        if not options.brief:
            for point in sorted(points, key=lambda point: point.row.setting):
                print(_line(point))
        kept = trusted(points)
        print(f"{server} ({points[0].row.server.set}): {len(kept)} of {len(points)} rows")
        for path, title in METRICS.items():
            peer = spelled(peer_errors(kept, path, "aic012"))
            print(f"  {title}: {spelled(own_errors(kept, path))}   aiconfigurator: {peer}")


def _priced(row: Row, costs: Path | None) -> Row:
    """Return the row with its server priced by ``costs``; None: by the bundled fits."""
    if isinstance(row.run, UnusableRun):
        return row
    return replace(row, run=replace(row.run, deployment=replace(row.run.deployment, costs=costs)))


def _line(point: Point) -> str:
    _, plan, prompt, answer, concurrency = point.row.setting
    times = "  ".join(
        f"{title} {point.row.measured(path) * 1e3:9.2f} -> {point.predicted(path) * 1e3:9.2f} ms "
        f"({point.predicted(path) / point.row.measured(path) - 1:+7.1%})"
        for path, title in METRICS.items()
    )
    why = point.found.reason if isinstance(point.found, UnusableRun) else ""
    return f"{prompt:6} {answer:6} {plan:18} c{concurrency:<4} {times}  {why}"


if __name__ == "__main__":
    main()
