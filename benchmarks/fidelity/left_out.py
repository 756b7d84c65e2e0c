"""Constants estimated with one server left out at a time, and each server replayed with what the others say.

The Jacobian is one replay of everything per constant, one prior error away. A fold is the linear problem without its
server; what is reported of a server are real replays with its fold's constants, never the linear model's word.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.fidelity.constants import CONSTANTS, LEAST_SERVERS, Constant, shifts
from benchmarks.fidelity.linear_fit import Array, Residuals, fit, identifying_servers, posterior_errors
from benchmarks.fidelity.profile_changes import value_of
from benchmarks.fidelity.replay import BASE, Point, Row, Variant, replay_groups
from benchmarks.fidelity.servers.server import ServingGroup, number

METRICS: Final = ("tpot", "ttft")
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


def trusted(points: Sequence[Point]) -> list[Point]:
    """Return the points that no rule rejects and that were predicted."""
    return [point for point in points if point.rejected is None and point.refused is None]


def estimate(
    rows: Sequence[Row],
    groups: Sequence[ServingGroup],
    constants: tuple[Constant, ...] = CONSTANTS,
    *,
    workers: int = 2,
    with_interval: bool = True,
) -> Estimation:
    """Estimate ``constants`` from the public servers among ``groups``, and replay each with its fold's."""
    public = [group for group in groups if group.kind == "public"]
    engines = {group.engine for group in public}
    known = tuple(constant for constant in constants if engines & set(constant.engines))
    steps = [
        Variant(name=constant.name, shifts=shifts(known, {constant.name: constant.prior_error})) for constant in known
    ]
    base = replay_groups(rows, public, workers=workers)[BASE.name]
    tried = replay_groups(sample(rows, public), public, (BASE, *steps), workers=workers)
    parts = [_residuals(tried, known, metric) for metric in METRICS]
    identified = identifying_servers(parts)
    fixed = [len(servers) < LEAST_SERVERS for servers in identified]
    for part in parts:
        part.slopes[:, fixed] = 0.0
    stated = [_stated(constant, public) for constant in known]
    scales = np.array([item.prior_error for item in known])
    least = -np.array(stated) / scales
    prior = np.where(fixed, 0.0, (np.array([item.prior for item in known]) - stated) / scales)
    moves = fit(parts, least, prior)
    names = sorted({group.name for group in public})
    folds = {name: fit(parts, least, prior, without=name) for name in names}
    final = [
        Variant(name="in sample", shifts=_as_shifts(known, moves)),
        Variant(
            name="left out",
            shifts={name: _as_shifts(known, fold).get(_engine(public, name), {}) for name, fold in folds.items()},
            with_interval=with_interval,
        ),
    ]
    replayed = replay_groups(rows, public, final, workers=workers)
    errors = posterior_errors(parts)
    spread = np.stack(list(folds.values()))
    jackknife = np.sqrt((len(names) - 1) / len(names) * ((spread - spread.mean(axis=0)) ** 2).sum(axis=0))
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


def sample(rows: Sequence[Row], groups: Sequence[ServingGroup]) -> list[Row]:
    """Return up to ``_SAMPLE`` settings of each server, evenly over plans, lengths and concurrencies."""
    chosen: list[Row] = []
    for group in groups:
        own = [row for row in rows if group.holds(row)]
        distinct = {(group.plan(row), row["isl"], row["osl"], number(row, "concurrency")): row for row in own}
        ordered = [distinct[key] for key in sorted(distinct)]
        places = np.linspace(0, len(ordered) - 1, min(_SAMPLE, len(ordered))).round().astype(int)
        chosen += [ordered[place] for place in places]
    return chosen


def _residuals(tried: dict[str, list[Point]], constants: tuple[Constant, ...], metric: str) -> Residuals:
    base = tried[BASE.name]
    kept = [index for index, point in enumerate(base) if point.rejected is None and point.refused is None]
    own = np.array([base[index].own(metric) for index in kept])
    measured = np.array([base[index].measured(metric) for index in kept])
    moved = [np.array([tried[constant.name][index].own(metric) for index in kept]) for constant in constants]
    return Residuals(
        metric=metric,
        servers=np.array([base[index].group.name for index in kept]),
        log_error=np.log(own / measured),
        slopes=np.stack([np.nan_to_num(np.log(other / own)) for other in moved], axis=1),
    )


def _stated(constant: Constant, groups: Sequence[ServingGroup]) -> float:
    """Return the value of the newest profile of the constant's first engine: shifts apply to every version's own."""
    profiles = [group.engine_profile() for group in groups if group.engine in constant.engines]
    newest = max(profiles, key=lambda profile: profile.release or (0, 0))
    return float(value_of(newest, constant.key))


def _as_shifts(constants: tuple[Constant, ...], moves: Array) -> dict[str, dict[str, float]]:
    own = {item.name: item.prior_error * float(move) for item, move in zip(constants, moves, strict=True)}
    return shifts(constants, own)


def _engine(groups: Sequence[ServingGroup], name: str) -> str:
    return next(group.engine for group in groups if group.name == name)


def log_errors(points: Sequence[Point], metric: str) -> Array:
    """Return log(predicted / measured) of points that were predicted."""
    return np.array([math.log(point.own(metric) / point.measured(metric)) for point in points])
