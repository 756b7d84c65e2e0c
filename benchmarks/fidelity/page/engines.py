"""Errors per engine and server: left out, in sample, and other tools on the rows that they predict too."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.fidelity.left_out import Estimation
from benchmarks.fidelity.page.tables import folded, spelled, table
from benchmarks.fidelity.replay import Point, trusted, validated
from benchmarks.fidelity.rows import ENGINES, METRICS, PEERS
from simulator.calibration.evidence import TPOT
from simulator.validation.summary import Agreement, agreement

_WORST_SLICES: Final = 12


def own_errors(points: Sequence[Point], path: str) -> Agreement | None:
    """Errors of our predictions."""
    return agreement(validated(points), path)


def peer_errors(points: Sequence[Point], path: str, column: str) -> Agreement | None:
    """Errors of another tool's."""
    return agreement([run for point in points if (run := point.row.predicted_by(column)) is not None], path)


def of_engine(points: Sequence[Point], engine: str) -> list[Point]:
    """Return the trusted points of one engine."""
    return [point for point in trusted(points) if point.row.engine == engine]


def of_server(points: Sequence[Point], name: str) -> list[Point]:
    """Return the trusted points of one server."""
    return [point for point in trusted(points) if point.row.server.name == name]


def common(points: Sequence[Point], path: str, columns: Sequence[str]) -> list[Point]:
    """Return the points that every tool of ``columns`` predicts too."""
    return [point for point in points if all(math.isfinite(point.row.peer(path, column)) for column in columns)]


def engine_section(estimation: Estimation) -> Iterator[str]:
    """Write the table of engines: left-out errors, their ratio to in-sample errors, and peers on common rows."""
    yield "## Errors per engine, every server left out\n\n"
    yield (
        "MAPE / median of |predicted / measured - 1| in percent; *bias* is the signed mean. *Left / in*: MAPE with "
        "the server left\nout over MAPE with all servers' constants. Both peers are compared on the rows that they "
        "predict (their number follows).\n\n"
    )
    rows = []
    for engine, name in ENGINES.items():
        left, inside = of_engine(estimation.left_out, engine), of_engine(estimation.in_sample, engine)
        for path, metric in METRICS.items():
            own, fitted = own_errors(left, path), own_errors(inside, path)
            if own is None or fitted is None:
                continue
            cells = [_both(own), f"{100 * own.bias_frac:+.1f}", f"{own.mape_frac / fitted.mape_frac:.2f}"]
            for column in PEERS:
                shared = common(left, path, [column])
                ours, theirs = own_errors(shared, path), peer_errors(shared, path, column)
                if ours is None or theirs is None:
                    cells.append("none")
                    continue
                cells.append(f"{_both(ours)} against {_both(theirs)} ({theirs.runs})")
            rows.append((name, metric, own.runs, *cells))
    peers = [f"we / {name}" for name in PEERS.values()]
    yield table(("engine", "metric", "rows", "left out", "bias", "left / in", *peers), rows, texts=2)


def _both(found: Agreement) -> str:
    return f"{100 * found.mape_frac:.1f} / {100 * found.median_frac:.1f}"


def slices_section(estimation: Estimation) -> Iterator[str]:
    """Write the worst combinations of server, lengths and metric."""
    yield "## Where it is worst\n\n"
    parts: dict[tuple[str, str, str], list[Point]] = {}
    for point in trusted(estimation.left_out):
        server, _, prompt, answer, _ = point.row.setting
        for path in METRICS:
            parts.setdefault((server, f"{prompt} + {answer}", path), []).append(point)
    found = [(own_errors(points, key[2]), key, points[0].row.server.caveat) for key, points in parts.items()]
    known = [(error, key, caveat) for error, key, caveat in found if error is not None]
    known.sort(key=lambda item: -item[0].mape_frac / (1.0 if item[1][2] == TPOT else 2.0))
    yield "Slices of one server and one pair of lengths, left out, TTFT counted half; causes as far as known.\n\n"
    rows = [
        (server, lengths, METRICS[path], error.runs, f"{100 * error.mape_frac:.1f}", f"{100 * error.bias_frac:+.1f}",
         caveat or "-")
        for error, (server, lengths, path), caveat in known[:_WORST_SLICES]
    ]  # fmt: skip
    yield table(("server", "prompt + answer", "metric", "rows", "MAPE", "bias", "what is known"), rows, texts=3)


def server_section(estimation: Estimation) -> Iterator[str]:
    """Write one line per server, folded."""
    rows = []
    names = list(dict.fromkeys(point.row.server.name for point in estimation.left_out))
    for name in names:
        for path, metric in METRICS.items():
            sets = [of_server(points, name) for points in (estimation.left_out, estimation.in_sample, estimation.base)]
            cells = [spelled(own_errors(points, path)) for points in sets]
            peers = [spelled(peer_errors(sets[0], path, column)) for column in PEERS]
            rows.append((name, metric, len(sets[0]), *cells, *peers))
    text = "MAPE / median / p90 / signed bias in percent.\n\n"
    columns = ("server", "metric", "rows", "left out", "in sample", "profiles as they are", *PEERS.values())
    yield folded(f"All {len(names)} servers", text + table(columns, rows, texts=2))
