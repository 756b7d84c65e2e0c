"""Errors per engine and server: left out, in sample, and other tools on the rows that they predict too."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.fidelity.errors import Errors, errors
from benchmarks.fidelity.groups import ENGINES
from benchmarks.fidelity.left_out import METRICS, Estimation, trusted
from benchmarks.fidelity.page.tables import folded, table
from benchmarks.fidelity.replay import Point

PEERS: Final = {"aic012": "aiconfigurator 0.12", "aisim013": "AISimulate 0.13"}
_WORST_SLICES: Final = 12


def own_errors(points: Sequence[Point], metric: str) -> Errors | None:
    """Errors of our predictions."""
    return errors([point.own(metric) for point in points], [point.measured(metric) for point in points])


def peer_errors(points: Sequence[Point], metric: str, column: str) -> Errors | None:
    """Errors of another tool's."""
    return errors([point.peer(metric, column) for point in points], [point.measured(metric) for point in points])


def of_engine(points: Sequence[Point], engine: str) -> list[Point]:
    """Return the trusted points of one engine."""
    return [point for point in trusted(points) if point.group.engine == engine]


def common(points: Sequence[Point], metric: str, columns: Sequence[str]) -> list[Point]:
    """Return the points that every tool of ``columns`` predicts too."""
    return [point for point in points if all(math.isfinite(point.peer(metric, column)) for column in columns)]


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
        for metric in METRICS:
            own, fitted = own_errors(left, metric), own_errors(inside, metric)
            if own is None or fitted is None:
                continue
            cells = [f"{own.mape:.1f} / {own.median:.1f}", f"{own.bias:+.1f}", f"{own.mape / fitted.mape:.2f}"]
            for column in PEERS:
                shared = common(left, metric, [column])
                ours, theirs = own_errors(shared, metric), peer_errors(shared, metric, column)
                if ours is None or theirs is None:
                    cells.append("none")
                    continue
                cells.append(
                    f"{ours.mape:.1f} / {ours.median:.1f} against {theirs.mape:.1f} / {theirs.median:.1f} "
                    f"({theirs.count})"
                )
            rows.append((name, metric.upper(), own.count, *cells))
    peers = [f"we / {name}" for name in PEERS.values()]
    yield table(("engine", "metric", "rows", "left out", "bias", "left / in", *peers), rows, texts=2)


def slices_section(estimation: Estimation) -> Iterator[str]:
    """Write the worst combinations of server, lengths and metric."""
    yield "## Where it is worst\n\n"
    parts: dict[tuple[str, str, str], list[Point]] = {}
    for point in trusted(estimation.left_out):
        lengths = f"{point.row['isl']} + {point.row['osl']}"
        for metric in METRICS:
            parts.setdefault((point.group.name, lengths, metric), []).append(point)
    found = [(own_errors(points, key[2]), key, points[0].group.caveat) for key, points in parts.items()]
    known = [(error, key, caveat) for error, key, caveat in found if error is not None]
    known.sort(key=lambda item: -item[0].mape / (1.0 if item[1][2] == "tpot" else 2.0))
    yield "Slices of one server and one pair of lengths, left out, TTFT counted half; causes as far as known.\n\n"
    rows = [
        (key[0], key[1], key[2].upper(), error.count, f"{error.mape:.1f}", f"{error.bias:+.1f}", caveat or "-")
        for error, key, caveat in known[:_WORST_SLICES]
    ]
    yield table(("server", "prompt + answer", "metric", "rows", "MAPE", "bias", "what is known"), rows, texts=3)


def server_section(estimation: Estimation) -> Iterator[str]:
    """Write one line per server, folded."""
    rows = []
    names = list(dict.fromkeys(point.group.name for point in estimation.left_out))
    for name in names:
        for metric in METRICS:
            sets = [
                [point for point in trusted(points) if point.group.name == name]
                for points in (estimation.left_out, estimation.in_sample, estimation.base)
            ]
            cells = [str(own_errors(points, metric) or "none") for points in sets]
            peers = [str(peer_errors(sets[0], metric, column) or "none") for column in PEERS]
            rows.append((name, metric.upper(), len(sets[0]), *cells, *peers))
    text = "MAPE / median / p90 / signed bias in percent.\n\n"
    columns = ("server", "metric", "rows", "left out", "in sample", "profiles as they are", *PEERS.values())
    yield folded(f"All {len(names)} servers", text + table(columns, rows, texts=2))
