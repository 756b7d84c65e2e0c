"""Calibrates every public server on four of its runs: `python -m benchmarks.calibration --groundtruth DIR`.

Writes docs/calibration.md. ``--draws`` random choices of four are scored beside the runs chosen.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.calibration.page import page
from benchmarks.calibration.scored import score
from benchmarks.fidelity.rows import Row, read_rows


def main() -> None:
    """Score, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, default=Path("../shared/groundtruth"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--server", default="", help="servers whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("docs/calibration.md"))
    parser.add_argument("--workers", type=int, default=2, help="processes to replay with")
    options = parser.parse_args()
    servers: dict[str, list[Row]] = {}
    for row in read_rows(options.groundtruth / "serving_points.csv"):
        if row.server.set == "public" and options.server in row.server.name:
            servers.setdefault(row.server.name, []).append(row)
    with ProcessPoolExecutor(options.workers) as pool:
        scores = [found for found in pool.map(partial(score, draws=options.draws), servers.values()) if found]
    options.out.write_text(page(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
