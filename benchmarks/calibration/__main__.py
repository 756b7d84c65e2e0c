"""Calibrates every public server on four of its runs: `python -m benchmarks.calibration --groundtruth DIR`.

Writes docs/calibration.md. ``--draws`` random choices of four are scored beside the runs chosen.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.calibration.kernel import KERNELS, LinearServer, learn, linear_server
from benchmarks.calibration.measured_server import measured_server
from benchmarks.calibration.page import page
from benchmarks.calibration.scored import LEAST_SETTINGS, ServerScore, drawn_runs, score
from benchmarks.fidelity.rows import Row, read_rows
from simulator.calibration.load_points import LEARNT, LoadKernel

_LEAST_SERVERS: Final = 4  # that a kernel can be learnt from; with fewer it is the one that the package has


def main() -> None:
    """Score, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, default=Path("../shared/groundtruth"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--server", default="", help="servers whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("docs/calibration.md"))
    parser.add_argument("--workers", type=int, default=2, help="processes to replay with")
    options = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    for row in read_rows(options.groundtruth / "serving_points.csv"):
        if row.server.set == "public" and options.server in row.server.name:
            rows.setdefault(row.server.name, []).append(row)
    with ProcessPoolExecutor(options.workers) as pool:
        found = pool.map(partial(_linear, draws=options.draws), rows.values())
        servers = [server for server in found if server is not None]
        errors = np.array(list(pool.map(_kernel_errors, servers)))
        is_few = len(servers) < _LEAST_SERVERS
        kernels = [LEARNT if is_few else learn(errors, without=place) for place in range(len(servers))]
        own = [rows[server.name] for server in servers]
        scores = list(pool.map(_scored, own, servers, kernels))
    options.out.write_text(page(scores, LEARNT if is_few else learn(errors)), encoding="utf-8")


def _linear(rows: Sequence[Row], *, draws: int) -> LinearServer | None:
    server = measured_server(rows)
    count = len(server.runs)
    return linear_server(server, drawn_runs(count, draws)) if count >= LEAST_SETTINGS else None


def _kernel_errors(server: LinearServer) -> list[float]:
    return [server.error(kernel) for kernel in KERNELS]


def _scored(rows: Sequence[Row], server: LinearServer, kernel: LoadKernel) -> ServerScore:
    return score(measured_server(rows), server, kernel)


if __name__ == "__main__":
    main()
