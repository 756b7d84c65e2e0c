"""Deployments of two pools: errors by engine, each server left out, and the other tool's on the same rows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.fidelity.page.tables import folded, spelled, table
from benchmarks.fidelity.pools import PoolServer, replay_pools
from benchmarks.fidelity.rows import ENGINES, METRICS
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.validation.summary import agreement

_COLUMNS: Final = ("metric", "rows", "left out", "profiles as they are", "aiconfigurator 0.12", "in 90 % intervals")


def pools_section(path: Path, predictor: Predictor) -> Iterator[str]:
    """Write the section; nothing where the table is not there."""
    if not path.is_file():
        return
    servers = replay_pools(path, predictor)
    yield "## Prefill and decode on devices of their own\n\n"
    yield (
        f"{sum(len(server.rows) for server in servers)} rows of {len(servers)} servers under Dynamo, whose recipes are "
        "public (`benchmarks/fidelity/servers/disagg_points.toml`).\nMAPE / median / p90 / signed bias in percent. "
        "*Left out*: the router's hand-over is that of the other servers.\n\n"
    )
    named = [(ENGINES[engine], [one for one in servers if one.engine == engine]) for engine in ENGINES]
    rows = [row for name, group in [*named, ("all", servers)] for row in _lines(name, group)]
    yield table(("engine", *_COLUMNS), rows, texts=2)
    yield folded(
        f"All {len(servers)} servers of two pools",
        table(
            ("server", "hand-over it wants", "hand-over of the others", *_COLUMNS),
            [
                (row[0], _milliseconds(server.own_s), _milliseconds(server.others_s), *row[1:])
                for server in servers
                for row in _lines(server.name, [server])
            ],
        ),
    )


def _lines(name: str, servers: Sequence[PoolServer]) -> list[tuple[object, ...]]:
    left = [run for server in servers for run in server.left_out]
    own = [run for server in servers for run in server.as_it_is]
    peer = [run for server in servers for run in server.by_peer()]
    return [
        (
            name,
            title,
            len(left),
            *(spelled(agreement(runs, path)) for runs in (left, own, peer)),
            _covered(left, path),
        )
        for path, title in METRICS.items()
    ]


def _covered(runs: Sequence[ValidatedRun], path: str) -> str:
    return f"{sum(run.is_covered(path) is True for run in runs)} of {len(runs)}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f} ms"
