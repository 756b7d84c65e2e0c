"""One server calibrated on four of its runs, chosen or drawn, and scored on all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.calibration.measured_server import METRICS, MeasuredServer, measured_server
from benchmarks.fidelity.rows import Row
from simulator.calibration.choose_runs import choose_runs
from simulator.calibration.estimate import Estimate, estimate, slopes_at
from simulator.calibration.evidence import Array
from simulator.calibration.learnt import learnt_values, with_values
from simulator.calibration.leave_one_out import leave_one_out
from simulator.calibration.replays import Replays
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.model.cells.moe import MixtureOfExperts
from simulator.validation.measured_run import UnusableRun

RUNS: Final = 4
_LEAST_SETTINGS: Final = 8  # four to calibrate on and four to score
_SEED: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Mean absolute errors of the settings that were not calibrated on, by metric, as fractions."""

    before: Array
    after: Array
    kept_profile: bool  # leaving out one run said that calibrating would harm
    told: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """Share of rows within the 90 % interval, and the median half width over the middle, by metric."""

    share: Array
    half_width: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerScore:
    """A server's scores: on the runs chosen beforehand, and on each draw."""

    name: str
    engine: str
    is_mixture: bool
    settings: int
    rows: int
    chosen: Scored
    drawn: tuple[Scored, ...]
    inside_before: Inside
    inside_after: Inside


def score(rows: Sequence[Row], draws: int) -> ServerScore | None:
    """Calibrate and score the server of ``rows``; None where it has too few settings."""
    server = measured_server(rows)
    count = len(server.runs)
    if count < _LEAST_SETTINGS:
        return None
    everything = server.replays(range(count))
    zero = np.zeros(len(server.unknowns))
    middle = everything(zero)
    slopes = slopes_at(everything, zero, middle, range(len(zero))).reshape(count, len(METRICS), -1)
    chosen = choose_runs(slopes, list(server.plans), METRICS, RUNS)
    found, scored = _scored(server, chosen, middle, slopes, everything)
    rest = [place for place in range(count) if place not in chosen]
    after = server.profile
    if not scored.kept_profile:
        values = learnt_values(server.profile, server.unknowns, found, server.profile.spread)
        after = with_values(server.profile, values)
    random = np.random.default_rng(_SEED)
    drawn = [sorted(random.choice(count, RUNS, replace=False).tolist()) for _ in range(draws)]
    return ServerScore(
        name=server.name,
        engine=server.profile.engine,
        is_mixture=_is_mixture(server),
        settings=count,
        rows=sum(len(values) for values in server.measured),
        chosen=scored,
        drawn=tuple(_scored(server, own, middle, slopes, everything)[1] for own in drawn),
        inside_before=_inside(server, server.profile, rest),
        inside_after=_inside(server, after, rest),
    )


def _is_mixture(server: MeasuredServer) -> bool:
    blocks = server.replayed[0].serving.model.unique_blocks
    return any(isinstance(cell, MixtureOfExperts) for block in blocks for cell in block.cells)


def _scored(
    server: MeasuredServer, chosen: Sequence[int], middle: Array, slopes: Array, shared: Replays
) -> tuple[Estimate, Scored]:
    evidence, predict = server.evidence(chosen), server.replays(chosen, shared)
    found = estimate(
        predict, server.unknowns, evidence, slopes=slopes[list(chosen)].reshape(len(evidence), len(server.unknowns))
    )
    harms = leave_one_out(predict, server.unknowns, evidence, found).harms
    rest = [place for place in range(len(server.runs)) if place not in chosen]
    before = middle.reshape(len(server.runs), -1)[rest].ravel()
    after = before if harms else server.replays(rest, shared)(found.moves)
    return found, Scored(
        before=np.abs(server.errors(before, rest)).mean(axis=0),
        after=np.nanmean(np.abs(server.errors(after, rest)), axis=0),
        kept_profile=harms,
        told=tuple(server.unknowns[place].key for place in found.kept),
        runs=tuple(f"{server.plans[place]} {server.runs[place].workload.name}" for place in chosen),
    )


def _inside(server: MeasuredServer, profile: EngineProfile, places: Sequence[int]) -> Inside:
    """Replay the settings at ``places`` with their intervals."""
    inside, widths = [], []
    for place in places:
        found = server.predictor.predict(server.runs[place], profile)
        if isinstance(found, UnusableRun):
            continue
        ends = np.array([found.interval[path] for path in METRICS])
        widths.append((ends[:, 1] - ends[:, 0]) / 2 / [found.predicted[path] for path in METRICS])
        inside += [(ends[:, 0] <= values) & (values <= ends[:, 1]) for values in server.measured[place]]
    return Inside(share=np.mean(inside, axis=0), half_width=np.median(widths, axis=0))
