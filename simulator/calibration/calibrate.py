"""From runs of one server to the constants of its engine profile, and what they are worth on runs not seen."""

import math
from collections.abc import Sequence

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.estimate import Estimate
from simulator.calibration.evidence import ITL, TPOT, Evidence, telling_metrics
from simulator.calibration.learnt import Values, learnt_values
from simulator.calibration.leave_one_out import LeftOut, leave_one_out
from simulator.calibration.memory_constants import LearntMemory, learn_memory
from simulator.calibration.one_server import refuse_other_blocks, refuse_unusable
from simulator.calibration.posterior import whitened
from simulator.calibration.replays import Replayed, Replays
from simulator.calibration.server_fit import fit_server
from simulator.calibration.told import Untold, untold
from simulator.calibration.unknowns import COMMON, Unknown, unknowns_of
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.spread import Spread
from simulator.serving import Serving
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor

_MOST_INTERVAL_ERROR = 0.25  # of a whole number of tokens, for what clients see to be a streaming interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What runs say of a profile.

    ``values`` are those of the new profile by section and key; of memory alone where the runs are likelier of the
    profile as it is.
    """

    runs: tuple[MeasuredRun, ...]
    profile: EngineProfile
    unknowns: tuple[Unknown, ...]
    evidence: Evidence
    estimate: Estimate
    untold: tuple[Untold, ...]
    width: float  # how far the server is from its profile, in what servers are (`width`)
    left_out: LeftOut
    memory: LearntMemory
    values: Values
    stream_interval: int | None  # told by gaps between chunks, where it is not the profile's own
    notes: tuple[str, ...] = ()


def calibrate(runs: Sequence[MeasuredRun | UnusableRun], constants: Sequence[str] = ()) -> Calibration:
    """Estimate what ``runs`` tell of their server's profile; of ``constants`` alone, where these are named.

    Raises ``UserError`` for runs of several servers, failed ones, too few, and constants that do not exist.
    """
    measured = refuse_unusable(runs)
    predictor = Predictor()
    servings = [predictor.serving(run.deployment) for run in measured]
    for run, serving in zip(measured, servings, strict=True):
        refuse_other_blocks(run, serving)
    profile = servings[0].profile
    interval = None if any(run.deployment.settings.get("stream_interval") for run in measured) else _interval(measured)
    if interval is not None and servings[0].answer_chunks()[0] == interval:
        interval = None
    if interval is not None and profile.streaming is not None:
        streaming = profile.streaming.model_copy(update={"interval": interval})
        profile = profile.model_copy(update={"streaming": streaming})
    spread = _spread(servings)
    evidence, metrics = _evidence(measured)
    possible = unknowns_of(profile, spread)
    only = _named(constants, possible, evidence)
    replayed = [_replayed(run, serving) for run, serving in zip(measured, servings, strict=True)]
    replays = Replays(runs=replayed, metrics=metrics, profile=profile, unknowns=possible)
    _refuse_unpredicted(measured, replays(np.zeros(len(possible))), evidence, predictor)
    fit = fit_server(replays, evidence, only=only)
    found, unknowns = fit.estimate, fit.unknowns
    memory = learn_memory(measured, servings)
    white = whitened(found.before, fit.slopes, evidence.covariance())[1]
    return Calibration(
        runs=tuple(measured),
        profile=profile,
        unknowns=unknowns,
        evidence=evidence,
        estimate=found,
        untold=tuple(
            item
            for item in untold(white[:, : len(possible)], fit.constants)  # factors by load are no constants
            if fit.slopes[:, item.place].any()
        ),
        width=fit.width,
        left_out=leave_one_out(fit.replays, unknowns, evidence, found),
        memory=memory,
        values={
            **(learnt_values(profile, unknowns, found, spread) if fit.width and found.kept else {}),
            **({"memory": memory.values} if memory.values else {}),
        },
        stream_interval=interval,
        notes=tuple(dict.fromkeys(note for run in measured for note in run.notes)),
    )


def _replayed(run: MeasuredRun, serving: Serving) -> Replayed:
    return Replayed(
        serving=serving, layout=run.deployment.layout(), workload=run.workload, client_lead_s=run.client_lead_s
    )


def _spread(servings: Sequence[Serving]) -> Spread | None:
    return None if servings[0].profile.spread is None else servings[0].spread(None)


def _interval(runs: Sequence[MeasuredRun]) -> int | None:
    """Return the tokens of a chunk, which the gap between chunks over the time per token tells; None where it is 1."""
    ratios = [run.measured[ITL] / run.measured[TPOT] for run in runs if {ITL, TPOT} <= set(run.measured)]
    if not ratios:
        return None
    found = round(float(np.median(ratios)))
    return found if found > 1 and abs(float(np.median(ratios)) / found - 1) < _MOST_INTERVAL_ERROR / found else None


def _evidence(runs: Sequence[MeasuredRun]) -> tuple[Evidence, list[list[str]]]:
    metrics = []
    for run in runs:
        known = [path for path, value in run.measured.items() if value > 0 and math.isfinite(value)]
        telling = telling_metrics(known)
        if not telling:
            raise UserError(
                f"{run.place}: measured neither time to first token nor per token, end to end nor a rate",
                hint="leave the run out",
            )
        metrics.append(telling)
    numbers = [(place, path) for place, own in enumerate(metrics) for path in own]
    return (
        Evidence(
            runs=np.array([place for place, _ in numbers]),
            plans=np.array([str(runs[place].deployment.layout()) for place, _ in numbers]),
            metrics=np.array([path for _, path in numbers]),
            log_measured=np.log([runs[place].measured[path] for place, path in numbers]),
        ),
        metrics,
    )


def _named(constants: Sequence[str], unknowns: Sequence[Unknown], evidence: Evidence) -> list[int] | None:
    if not constants:
        return None
    places = {name_of(unknown): place for place, unknown in enumerate(unknowns)}
    for name in constants:
        if name not in places:
            raise UserError(f"{shown(name)} is no constant that runs may tell", hint=f"they are {', '.join(places)}")
    wanted = list(dict.fromkeys(constants))
    if len(wanted) > len(evidence):
        raise UserError(
            f"{len(evidence)} measured numbers cannot tell {len(wanted)} constants; too many are "
            f"{', '.join(wanted[len(evidence) :])}",
            hint="name fewer, or make more runs: apex calibrate --plan-runs",
        )
    return [places[name] for name in wanted]


def name_of(unknown: Unknown) -> str:
    """Return what an unknown is called on the command line and in tables."""
    return "price_factors.all" if unknown.key == COMMON else unknown.key


def _refuse_unpredicted(
    runs: Sequence[MeasuredRun], middle: np.ndarray, evidence: Evidence, predictor: Predictor
) -> None:
    for place, run in enumerate(runs):
        if np.isfinite(middle[evidence.runs == place]).all():
            continue
        found = predictor.predict(run, with_interval=False)
        reason = found.reason if isinstance(found, UnusableRun) else "it has no such metrics"
        raise UserError(f"{run.place}: cannot be predicted: {reason}", hint="leave the run out, or correct its server")
