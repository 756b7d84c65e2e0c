"""Intervals, decisions, constants and ablations."""

import math
from collections.abc import Callable, Iterator, Sequence

from benchmarks.fidelity.ablations import ABLATIONS
from benchmarks.fidelity.coverage import coverage
from benchmarks.fidelity.decisions import Quality, distinct, quality
from benchmarks.fidelity.decisions import __doc__ as protocol
from benchmarks.fidelity.groups import ENGINES
from benchmarks.fidelity.left_out import METRICS, Estimation, trusted
from benchmarks.fidelity.page.engines import PEERS, of_engine, own_errors
from benchmarks.fidelity.page.tables import folded, percent, table
from benchmarks.fidelity.replay import BASE, Point


def coverage_section(points: Sequence[Point]) -> Iterator[str]:
    """Write how often intervals hold the measurement of a left-out server."""
    yield "## Intervals\n\n90 % intervals of left-out servers: share of measurements inside, and half their width.\n\n"
    rows = []
    for engine, name in {**ENGINES, "": "all"}.items():
        chosen = of_engine(points, engine) if engine else trusted(points)
        for metric in METRICS:
            found = coverage(chosen, metric)
            if found is not None:
                cells = (percent(found.inside), percent(found.inside_by_server), percent(found.half_width))
                rows.append((name, metric.upper(), found.rows, *cells))
    columns = ("engine", "metric", "rows", "inside, %", "inside, mean of servers, %", "median half width, %")
    yield table(columns, rows, texts=2)


def decision_section(points: Sequence[Point]) -> Iterator[str]:
    """Write what picks by prediction cost, for this simulator and its peers."""
    yield "## Decisions\n\n"
    yield (protocol or "").partition("\n\n")[2].strip() + "\n\n"
    chosen = trusted(points)
    shared = [
        point
        for point in chosen
        if all(math.isfinite(point.peer(metric, column)) for column in PEERS for metric in METRICS)
    ]
    rows = [("apex", "all", *_quality_cells(quality(distinct(chosen, _own))))]
    rows.append(("apex", "common", *_quality_cells(quality(distinct(shared, _own)))))
    for column, name in PEERS.items():
        rows.append((name, "common", *_quality_cells(quality(distinct(shared, _of_peer(column))))))
    columns = ("tool", "settings", "sizes", "regret, %", "picks", "broken, %", "regret of the rest, %")
    yield table(columns, rows, texts=2)


def _own(point: Point, metric: str) -> float:
    return point.own(metric)


def _of_peer(column: str) -> Callable[[Point, str], float]:
    def predict(point: Point, metric: str) -> float:
        return point.peer(metric, column)

    return predict


def _quality_cells(found: Quality) -> tuple[object, ...]:
    return found.sizes, percent(found.size_regret), found.picks, percent(found.broken), percent(found.regret)


def constants_section(estimation: Estimation) -> Iterator[str]:
    """Write what servers say of each constant."""
    rows = [
        (
            f"`{item.constant.key}`",
            ", ".join(ENGINES[engine] for engine in item.constant.engines),
            f"{item.stated:.3g}",
            f"{item.constant.prior:.3g} ± {item.constant.prior_error:.2g}",
            f"{item.value:.3g} ± {item.error:.2g}" if item.is_identified else "kept",
            f"{item.lowest:.3g} to {item.highest:.3g}" if item.is_identified else "-",
            len(item.servers),
        )
        for item in estimation.estimates
    ]
    text = (
        "Robust least squares on log errors of TPOT and TTFT, every server with the same weight, with what is known "
        "of a constant\nas a prior. A server identifies a constant where one prior error of it moves its mean TPOT or "
        "TTFT by 2 %; with fewer than\nthree such servers the value of its source is kept. *Folds*: range with one "
        "server left out. Values in s, shares as such; one\nnumber per engine is shown, versions that state another "
        "are moved alike.\n\n"
    )
    columns = (
        "constant",
        "engines",
        "in the profiles",
        "prior",
        "servers say",
        "folds",
        "servers that tell",
    )
    yield folded("Constants learnt from servers", text + table(columns, rows, texts=2))


def ablation_section(replayed: dict[str, list[Point]]) -> Iterator[str]:
    """Write the error with each effect switched off, as a difference to the error with all of them."""
    yield "## What each modelled effect is worth\n\n"
    yield (
        "MAPE of TPOT / TTFT over up to 24 settings of each server of an engine, and how it changes when one effect is "
        "switched\noff.\n\n"
    )
    base = replayed[BASE.name]
    rows = [("everything as it is", *(_both(of_engine(base, engine)) for engine in ENGINES))]
    for variant in ABLATIONS:
        cells = [_changes(of_engine(replayed[variant.name], engine), of_engine(base, engine)) for engine in ENGINES]
        rows.append((variant.name, *cells))
    yield table(("switched off", *ENGINES.values()), rows)


def _both(points: Sequence[Point]) -> str:
    found = [own_errors(points, metric) for metric in METRICS]
    return " / ".join("-" if error is None else f"{error.mape:.1f}" for error in found)


def _changes(points: Sequence[Point], base: Sequence[Point]) -> str:
    cells = []
    for metric in METRICS:
        found, like = own_errors(points, metric), own_errors(base, metric)
        cells.append("-" if found is None or like is None else f"{found.mape - like.mape:+.1f}")
    return " / ".join(cells)
