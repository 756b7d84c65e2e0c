"""Calibrates every public server on four of its runs: `python -m benchmarks.calibration --groundtruth DIR`.

Writes docs/calibration.md. ``--draws`` random choices of four are scored beside the runs chosen.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.calibration.page import page
from benchmarks.calibration.scored import ServerScore, score
from benchmarks.fidelity.groups import GROUPS
from benchmarks.fidelity.replay import read_points
from benchmarks.fidelity.servers.server import ServingGroup


def main() -> None:
    """Score, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, default=Path("../shared/groundtruth"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--group", default="", help="servers whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("docs/calibration.md"))
    parser.add_argument("--workers", type=int, default=2, help="processes to replay with")
    options = parser.parse_args()
    names = [group.name for group in GROUPS if group.kind == "public" and options.group in group.name]
    task = partial(_scored, points=options.groundtruth / "serving_points.csv", draws=options.draws)
    with ProcessPoolExecutor(options.workers) as pool:
        scores = [found for found in pool.map(task, names) if found is not None]
    options.out.write_text(page(scores), encoding="utf-8")


def _scored(name: str, *, points: Path, draws: int) -> ServerScore | None:
    group: ServingGroup = next(group for group in GROUPS if group.name == name)
    return score(group, read_points(points), draws)


if __name__ == "__main__":
    main()
