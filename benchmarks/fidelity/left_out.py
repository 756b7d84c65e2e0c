"""Constants estimated with one server left out at a time, and each server replayed with what the others say.

The Jacobian is one replay of everything per constant, one prior error away. A fold is the linear problem without its
server; what is reported of a server are real replays with its fold's constants, never the linear model's word.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.fidelity.constants import CONSTANTS, LEAST_SERVERS, Constant, shifts
from benchmarks.fidelity.linear_fit import Array, Residuals, fit, identifying_servers, posterior_errors
from benchmarks.fidelity.profile_changes import value_of
from benchmarks.fidelity.replay import BASE, Point, Variant, replay, validated
from benchmarks.fidelity.rows import METRICS, Row, Setting
from simulator.validation.predict import ValidatedRun

_SAMPLE: Final = 24  # settings of a server that a Jacobian is taken from; errors are those of all rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One constant: its value in the profiles, what all servers say, how far folds lie apart, and who identifies it."""

    constant: Constant
    stated: float
    value: float
    error: float  # one standard deviation: of the folds or of the linear model, whichever is larger
    lowest: float  # of the folds
    highest: float
    servers: tuple[str, ...]

    @property
    def is_identified(self) -> bool:
        """Whether enough servers tell; otherwise ``value`` is the one stated."""
        return len(self.servers) >= LEAST_SERVERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimation:
    """All constants, and the points of every server: as the profiles are, with all servers' constants, left out."""

    estimates: tuple[Estimate, ...]
    base: list[Point]
    in_sample: list[Point]
    left_out: list[Point]
    left_out_variant: Variant  # every server with its fold's constants


def estimate(
    rows: Sequence[Row],
    constants: tuple[Constant, ...] = CONSTANTS,
    *,
    workers: int = 2,
    with_interval: bool = True,
) -> Estimation:
    """Estimate ``constants`` from the servers of ``rows``, and replay each with its fold's."""
    engines = {row.server.name: row.engine for row in rows}
    known = tuple(constant for constant in constants if set(engines.values()) & set(constant.engines))
    steps = [
        Variant(name=constant.name, shifts=shifts(known, {constant.name: constant.prior_error})) for constant in known
    ]
    base = replay(rows, workers=workers)[BASE.name]
    tried = replay(sample(rows), (BASE, *steps), workers=workers)
    parts = [_residuals(tried, known, path) for path in METRICS]
    identified = identifying_servers(parts)
    fixed = [len(servers) < LEAST_SERVERS for servers in identified]
    for part in parts:
        part.slopes[:, fixed] = 0.0
    stated = [_stated(constant, rows) for constant in known]
    scales = np.array([item.prior_error for item in known])
    least = -np.array(stated) / scales
    prior = np.where(fixed, 0.0, (np.array([item.prior for item in known]) - stated) / scales)
    moves = fit(parts, least, prior)
    folds = {name: fit(parts, least, prior, without=name) for name in sorted(engines)}
    final = [
        Variant(name="in sample", shifts=_as_shifts(known, moves)),
        Variant(
            name="left out",
            shifts={name: _as_shifts(known, fold).get(engines[name], {}) for name, fold in folds.items()},
            with_interval=with_interval,
        ),
    ]
    replayed = replay(rows, final, workers=workers)
    errors = posterior_errors(parts)
    spread = np.stack(list(folds.values()))
    jackknife = np.sqrt((len(folds) - 1) / len(folds) * ((spread - spread.mean(axis=0)) ** 2).sum(axis=0))
    return Estimation(
        estimates=tuple(
            Estimate(
                constant=item,
                stated=value,
                value=max(0.0, value + item.prior_error * float(moves[index])),
                error=item.prior_error * max(float(errors[index]), float(jackknife[index])),
                lowest=max(0.0, value + item.prior_error * float(spread[:, index].min())),
                highest=value + item.prior_error * float(spread[:, index].max()),
                servers=tuple(sorted(identified[index])),
            )
            for index, (item, value) in enumerate(zip(known, stated, strict=True))
        ),
        base=base,
        in_sample=replayed["in sample"],
        left_out=replayed["left out"],
        left_out_variant=final[1],
    )


def sample(rows: Sequence[Row]) -> list[Row]:
    """Return up to ``_SAMPLE`` settings of each server, evenly over plans, lengths and concurrencies."""
    servers: dict[str, dict[Setting, Row]] = {}
    for row in rows:
        servers.setdefault(row.server.name, {})[row.setting] = row
    chosen: list[Row] = []
    for distinct in servers.values():
        ordered = [distinct[setting] for setting in sorted(distinct)]
        places = np.linspace(0, len(ordered) - 1, min(_SAMPLE, len(ordered))).round().astype(int)
        chosen += [ordered[place] for place in places]
    return chosen


def _residuals(tried: Mapping[str, Sequence[Point]], constants: Sequence[Constant], path: str) -> Residuals:
    base = validated(tried[BASE.name])
    own = np.array([run.predicted[path] for run in base])
    moved = []
    for constant in constants:
        pairs = zip(tried[BASE.name], tried[constant.name], strict=True)
        moved.append(np.array([other.predicted(path) for one, other in pairs if isinstance(one.found, ValidatedRun)]))
    return Residuals(
        path=path,
        servers=np.array([run.run.group for run in base]),
        log_error=log_errors(tried[BASE.name], path),
        slopes=np.stack([np.nan_to_num(np.log(other / own)) for other in moved], axis=1),
    )


def _stated(constant: Constant, rows: Sequence[Row]) -> float:
    """Return the value of the newest profile of the constant's engines: shifts apply to every version's own."""
    profiles = [row.profile for row in rows if row.engine in constant.engines]
    newest = max(profiles, key=lambda profile: profile.release or (0, 0))
    return float(value_of(newest, constant.key))


def _as_shifts(constants: tuple[Constant, ...], moves: Array) -> dict[str, dict[str, float]]:
    own = {item.name: item.prior_error * float(move) for item, move in zip(constants, moves, strict=True)}
    return shifts(constants, own)


def log_errors(points: Sequence[Point], path: str) -> Array:
    """Return log(predicted / measured) of the points that were predicted."""
    return np.array([math.log(run.predicted[path] / run.run.measured[path]) for run in validated(points)])
