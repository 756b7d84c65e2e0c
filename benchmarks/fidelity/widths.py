"""Half widths of 90 % intervals, learnt from servers that were left out: the [spread] table of an engine profile.

An interval holds the errors of prices and constants; what a left-out server is further off is the spread. Its width is
the smallest with which nine of ten rows are inside, every server with the same weight; for TTFT the spread of steps is
already in the interval. The own part of a plan is what is left when the median of its server is taken off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.validation.predict import ValidatedRun

Array = NDArray[np.float64]

_LEVEL: Final = 0.90


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Relative half width of the spread, the part of it that is each plan's own, and the servers behind it."""

    whole: float
    own: float
    servers: int


def width(runs: Sequence[ValidatedRun], path: str, *, rows_alike: bool = False) -> Width:
    """Return the spread of the metric at ``path`` that left-out ``runs`` want beside the intervals they have.

    ``rows_alike`` weighs rows, not servers, alike.
    """
    servers = _wants(runs, path)
    if not servers:
        return Width(whole=math.nan, own=math.nan, servers=0)
    columns = [[needs for needs, _ in servers.values()], [owns for _, owns in servers.values()]]
    if rows_alike:
        columns = [[np.concatenate(column)] for column in columns]
    whole, own = map(_ninth, columns)
    return Width(whole=math.expm1(whole), own=math.expm1(min(own, whole)), servers=len(servers))


def held_left_out(runs: Sequence[ValidatedRun], path: str) -> dict[str, float]:
    """Return, by server, the share of its rows inside intervals whose spread was learnt from the other servers."""
    servers = _wants(runs, path)
    found = {}
    for name, (needs, _) in servers.items():
        others = [other for key, (other, _) in servers.items() if key != name]
        if others:
            found[name] = float((needs <= _ninth(others)).mean())
    return found


def _wants(runs: Sequence[ValidatedRun], path: str) -> dict[str, tuple[Array, Array]]:
    """Return, by server, what each row wants beside its interval: in all, and with the server's median taken off."""
    known: dict[str, list[ValidatedRun]] = {}
    for run in runs:
        if path in run.interval:
            known.setdefault(run.run.group, []).append(run)
    found = {}
    for name, own in known.items():
        errors = np.array([math.log(run.run.measured[path] / run.predicted[path]) for run in own])
        ends = np.log(np.array([run.interval[path] for run in own]) / [[run.predicted[path]] for run in own])
        found[name] = _missing(errors, ends), _missing(errors - np.median(errors), ends)
    return found


def _missing(errors: Array, ends: Array) -> Array:
    """Return what each error wants in quadrature beside the half width on its side."""
    half = np.where(errors > 0, ends[:, 1], -ends[:, 0])
    wanted: Array = np.sqrt(np.maximum(0.0, errors**2 - half**2))
    return wanted


def _ninth(servers: Sequence[Array]) -> float:
    """Return the width that nine of ten rows need at most, every server with the same weight."""
    values = np.concatenate(servers)
    weights = np.concatenate([np.full(len(rows), 1.0 / len(rows)) for rows in servers])
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(share, _LEVEL * share[-1])])
