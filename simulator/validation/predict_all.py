"""Many measured runs predicted, server by server, and where the difference of each server sits."""

from collections.abc import Sequence
from dataclasses import replace

from cluster_specs.lazy_dataclass import dataclass
from simulator.validation.difference import Difference, where_it_sits
from simulator.validation.distributions import LatencyDistribution, distributions
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun

# Of servers that are told apart by their deployment; a replay of each part for each run takes its time.
_MOST_TOLD_UNASKED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Runs beside their predictions in the order they were given, and those that could not be predicted.

    ``differences`` are by server, ``distributions`` by the place of a run in ``runs``; simulations are let go of.
    """

    runs: tuple[ValidatedRun, ...]
    unusable: tuple[UnusableRun, ...]
    differences: tuple[Difference, ...]
    distributions: dict[int, list[LatencyDistribution]]


def server_of(run: MeasuredRun) -> str:
    """Name the server of a run: that of its table, else the model, the engine and the cluster it ran on."""
    one = run.deployment
    return run.group or f"{one.model} with {one.engine} on {one.cluster}"


def predict_all(
    runs: Sequence[MeasuredRun | UnusableRun], predictor: Predictor, *, tells_parts: bool | None = None
) -> Validation:
    """Predict all runs, with intervals; ``tells_parts`` None: parts of a single server alone are told apart.

    Repeats of one setting are simulated once. Raises ``UserError`` where a deployment cannot be read.
    """
    servers: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        if isinstance(run, MeasuredRun):
            servers.setdefault(server_of(run), []).append(place)
    is_told = len(servers) <= _MOST_TOLD_UNASKED if tells_parts is None else tells_parts
    found: dict[int, ValidatedRun | UnusableRun] = {
        place: run for place, run in enumerate(runs) if isinstance(run, UnusableRun)
    }
    kept: dict[int, list[LatencyDistribution]] = {}
    differences = []
    for server, places in servers.items():
        own = _server(runs, places, predictor)
        predicted = [run for run in own.values() if isinstance(run, ValidatedRun)]
        difference = where_it_sits(predicted, server) if is_told and predicted else None
        if difference is not None:
            differences.append(difference)
        for place, one in own.items():
            if isinstance(one, ValidatedRun):
                kept[place] = distributions(one)
            found[place] = replace(one, outcome=None) if isinstance(one, ValidatedRun) else one
    ordered = [found[place] for place in range(len(runs))]
    validated = [(place, run) for place, run in enumerate(ordered) if isinstance(run, ValidatedRun)]
    return Validation(
        runs=tuple(run for _, run in validated),
        unusable=tuple(run for run in ordered if isinstance(run, UnusableRun)),
        differences=tuple(differences),
        distributions={index: kept[place] for index, (place, _) in enumerate(validated) if kept[place]},
    )


def _server(
    runs: Sequence[MeasuredRun | UnusableRun], places: Sequence[int], predictor: Predictor
) -> dict[int, ValidatedRun | UnusableRun]:
    """Predict the runs of one server; those of one layout follow each other, so that op curves are shared."""
    known: dict[tuple[str, int], ValidatedRun | UnusableRun] = {}
    found: dict[int, ValidatedRun | UnusableRun] = {}
    for place in places:
        run = runs[place]
        assert isinstance(run, MeasuredRun)
        key = repr(run.deployment), id(run.workload)
        like = known.get(key)
        if like is None:
            like = known.setdefault(key, predictor.predict(run))
        if isinstance(like, UnusableRun):
            found[place] = replace(like, name=run.name, place=run.place, group=run.group, set=run.set)
        else:
            found[place] = replace(like, run=run) if like.run is not run else like
    return found
