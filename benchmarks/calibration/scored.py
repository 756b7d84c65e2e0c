"""One server calibrated on four of its runs, chosen or drawn, and scored on all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.calibration.kernel import LinearServer
from benchmarks.calibration.measured_server import METRICS, MeasuredServer
from simulator.calibration.choose_runs import choose_runs
from simulator.calibration.evidence import Array
from simulator.calibration.learnt import learnt_values, with_values
from simulator.calibration.load_points import LoadKernel
from simulator.calibration.replays import Replays
from simulator.calibration.server_fit import ServerFit, fit_server
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.model.cells.moe import MixtureOfExperts
from simulator.validation.measured_run import UnusableRun

RUNS: Final = 4
LEAST_SETTINGS: Final = 8  # four to calibrate on and four to score
_SEED: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Mean absolute errors of the settings that were not calibrated on, by metric, as fractions."""

    before: Array
    after: Array
    width: float  # how far from the profile the runs make the server likely, in what servers are
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
    kernel: LoadKernel  # with which it was calibrated
    inside_before: Inside
    inside_after: Inside


def drawn_runs(count: int, draws: int) -> list[list[int]]:
    """Draw so many choices of runs among ``count`` settings."""
    random = np.random.default_rng(_SEED)
    return [sorted(random.choice(count, RUNS, replace=False).tolist()) for _ in range(draws)]


def score(server: MeasuredServer, linear: LinearServer, kernel: LoadKernel) -> ServerScore:
    """Calibrate and score one server, on the runs chosen and on each draw of ``linear``."""
    count = len(server.runs)
    everything = server.replays(range(count))
    chosen = choose_runs(linear.slopes, list(server.plans), METRICS, RUNS)
    found, scored = _scored(server, linear, chosen, everything, kernel)
    rest = [place for place in range(count) if place not in chosen]
    after = server.profile
    if found.width:
        values = learnt_values(server.profile, found.unknowns, found.estimate, server.profile.spread)
        after = with_values(server.profile, values)
    return ServerScore(
        name=server.name,
        engine=server.profile.engine,
        is_mixture=_is_mixture(server),
        settings=count,
        rows=sum(len(values) for values in server.measured),
        chosen=scored,
        drawn=tuple(_scored(server, linear, own, everything, kernel)[1] for own in linear.draws),
        kernel=kernel,
        inside_before=_inside(server, server.profile, rest),
        inside_after=_inside(server, after, rest),
    )


def _is_mixture(server: MeasuredServer) -> bool:
    blocks = server.replayed[0].serving.model.unique_blocks
    return any(isinstance(cell, MixtureOfExperts) for block in blocks for cell in block.cells)


def _scored(
    server: MeasuredServer, linear: LinearServer, chosen: Sequence[int], shared: Replays, kernel: LoadKernel
) -> tuple[ServerFit, Scored]:
    evidence = server.evidence(chosen)
    own = linear.slopes[list(chosen)].reshape(len(evidence), len(server.unknowns))
    found = fit_server(server.replays(chosen, shared), evidence, kernel=kernel, slopes=own)
    rest = [place for place in range(len(server.runs)) if place not in chosen]
    before = linear.middle[rest].ravel()
    after = before
    if found.width:
        after = server.replays(rest, shared).with_unknowns(found.unknowns)(found.estimate.moves)
    return found, Scored(
        before=np.abs(server.errors(before, rest)).mean(axis=0),
        after=np.nanmean(np.abs(server.errors(after, rest)), axis=0),
        width=found.width,
        told=tuple(found.unknowns[place].key for place in found.constants),
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
