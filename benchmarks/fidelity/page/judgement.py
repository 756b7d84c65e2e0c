"""Intervals, decisions, constants and ablations."""

import math
from collections.abc import Callable, Iterator, Sequence

from benchmarks.fidelity.ablations import ABLATIONS
from benchmarks.fidelity.coverage import coverage
from benchmarks.fidelity.decisions import Quality, distinct, quality
from benchmarks.fidelity.decisions import __doc__ as protocol
from benchmarks.fidelity.left_out import Estimation
from benchmarks.fidelity.page.engines import of_engine, own_errors
from benchmarks.fidelity.page.tables import folded, percent, table
from benchmarks.fidelity.replay import BASE, Point, trusted, validated
from benchmarks.fidelity.rows import ENGINES, METRICS, PEERS


def coverage_section(points: Sequence[Point]) -> Iterator[str]:
    """Write how often intervals hold the measurement of a left-out server."""
    yield "## Intervals\n\n90 % intervals of left-out servers: share of measurements inside, and half their width.\n\n"
    rows = []
    for engine, name in {**ENGINES, "": "all"}.items():
        chosen = of_engine(points, engine) if engine else trusted(points)
        for path, metric in METRICS.items():
            found = coverage(validated(chosen), path)
            if found is not None:
                cells = (percent(found.inside), percent(found.inside_by_server), percent(found.half_width))
                rows.append((name, metric, found.runs, *cells))
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
        if all(math.isfinite(point.row.peer(path, column)) for column in PEERS for path in METRICS)
    ]
    rows = [("apex", "all", *_quality_cells(quality(distinct(chosen, _own))))]
    rows.append(("apex", "common", *_quality_cells(quality(distinct(shared, _own)))))
    for column, name in PEERS.items():
        rows.append((name, "common", *_quality_cells(quality(distinct(shared, _of_peer(column))))))
    columns = ("tool", "settings", "sizes", "regret, %", "picks", "broken, %", "regret of the rest, %")
    yield table(columns, rows, texts=2)


def _own(point: Point, path: str) -> float:
    return point.predicted(path)


def _of_peer(column: str) -> Callable[[Point, str], float]:
    def predict(point: Point, path: str) -> float:
        return point.row.peer(path, column)

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
    found = [own_errors(points, path) for path in METRICS]
    return " / ".join("-" if error is None else percent(error.mape_frac) for error in found)


def _changes(points: Sequence[Point], base: Sequence[Point]) -> str:
    cells = []
    for path in METRICS:
        found, like = own_errors(points, path), own_errors(base, path)
        cells.append("-" if found is None or like is None else f"{100 * (found.mape_frac - like.mape_frac):+.1f}")
    return " / ".join(cells)
