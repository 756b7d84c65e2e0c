"""Where the difference between a server and its prediction sits: `where_it_sits` of runs of one server.

Every part of the server is changed alone, to either side, and the runs are replayed (`parts`); what then moves as the
measurements stand off explains them (`explain`). The parts found are at last changed together and replayed, so that
what is claimed is what a replay shows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.serving import StartedPlan
from simulator.simulate import SimulatedPlan
from simulator.validation.explain import Explained, Explanation, Response, explain
from simulator.validation.observations import Observation, logs, observations, whitening
from simulator.validation.parts import Part, Trial, parts, replayed
from simulator.validation.predict import ValidatedRun
from simulator.workload.workload import Workload

Array = NDArray[np.float64]

MOST_RUNS: Final = 12  # evenly over the runs of a server, by load: every part costs two replays of each
_NAMES: Final = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
_ROUNDS: Final = 2
_CLOSE: Final = 0.7  # of the best share: parts that explain as much alone are replayed at their sizes too
_HALF_WIDTH: Final = 1.645  # of a 90 % interval, in standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the difference of a server sits.

    ``off_frac`` and ``left_frac`` are the means of predicted / measured - 1 by metric, before anything is changed and
    with the parts found at their sizes, both replayed.
    """

    server: str
    runs: int
    observations: int
    has_requests: bool
    explanation: Explanation
    parts: Mapping[str, Part]
    off_frac: Mapping[str, float]
    left_frac: Mapping[str, float]

    def sentences(self) -> list[str]:
        """Say it in whole sentences, the one that matters first."""
        found = self.explanation
        if found.is_within_noise:
            return [f"{self.server}: nothing to explain: the differences are within what repeats of a run differ by"]
        off = " and ".join(f"{_NAMES[name]} {_signed(value)}" for name, value in self.off_frac.items())
        if not found.parts:
            why = "too little to tell where it sits" if found.is_little else "no part of the server explains it"
            return [f"{self.server}: predicted {off}: {why}"]
        first = [self._sentence(one) for one in found.parts]
        left = " and ".join(f"{_NAMES[name]} {_signed(value)}" for name, value in self.left_frac.items())
        many = "this" if len(first) == 1 else "these together"
        return [
            f"{self.server}: predicted {off}: consistent with the difference is that {first[0]}",
            *(f"beside it, {text}" for text in first[1:]),
            f"replayed with {many}, the predictions are {left} ({found.share:.0%} of the difference explained)",
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values; docs/reference/outputs.md documents them."""
        found = self.explanation
        return {
            "server": self.server,
            "runs": self.runs,
            "observations": self.observations,
            "is_within_noise": found.is_within_noise,
            "off_frac": dict(self.off_frac),
            "parts": [self._part_json(one) for one in found.parts],
            "left_frac": dict(self.left_frac),
            "explained_share": found.share,
            "alone_share": dict(found.alone),
            "sentences": self.sentences(),
        }

    def _part_json(self, one: Explained) -> dict[str, Any]:
        part = self.parts[one.name]
        ends = [one.size + sign * _HALF_WIDTH * one.error for sign in (-1, 1)]
        values = [math.exp(value) if part.is_factor else value for value in (one.size, *ends)]
        return {
            "part": one.name,
            "area": part.area,
            "unit": "factor" if part.is_factor else "s",
            "size": values[0],
            "interval": values[1:],
            "cannot_be_told_from": list(one.rivals),
        }

    def _sentence(self, one: Explained) -> str:
        part = self.parts[one.name]
        low, high = (part.amount(one.size + sign * _HALF_WIDTH * one.error) for sign in (-1, 1))
        ends = f"{low} to {high}"
        text = f"{part.sized(one.size)} ({ends}; {part.area})"
        if one.rivals:
            named = [f"{name} ({self.parts[name].area})" for name in one.rivals[:4]]
            more = f" and {len(one.rivals) - 4} more" if len(one.rivals) > 4 else ""
            text += f"; these runs cannot tell it from {', '.join(named)}{more}"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    start: StartedPlan
    workload: Workload
    observed: Sequence[Observation]
    base: Array  # predicted seconds of each observation


def where_it_sits(runs: Sequence[ValidatedRun], server: str) -> Difference | None:
    """Tell the parts of one server apart; None where no run of one pool has a latency on both sides."""
    chosen = _chosen(runs)
    known = [one for run in chosen if (one := _run(run)) is not None]
    if not known:
        return None
    y = np.concatenate([logs(one.observed, one.base) for one in known])
    named = {part.name: part for part in parts()}
    responses = {name: found for name, part in named.items() if (found := _response(part, known)) is not None}
    explanation = _explained(known, y, named, responses)
    sizes = {one.name: one.size for one in explanation.parts}
    off = np.exp(-y) - 1
    left = np.exp(-_log_ratios(known, [named[name] for name in sizes], sizes)) - 1 if sizes else off
    metrics = [item.metric for one in known for item in one.observed]
    return Difference(
        server=server,
        runs=len(known),
        observations=len(y),
        has_requests=any(item.requests is not None for one in known for item in one.observed),
        explanation=explanation,
        parts=named,
        off_frac=_means(off, metrics),
        left_frac=_means(left, metrics),
    )


def _chosen(runs: Sequence[ValidatedRun]) -> list[ValidatedRun]:
    ordered = sorted(runs, key=lambda run: (run.predicted.get("tpot_s.mean", 0.0), run.run.name))
    places = np.linspace(0, len(ordered) - 1, min(MOST_RUNS, len(ordered))).round().astype(int)
    return [ordered[place] for place in dict.fromkeys(places.tolist())]


def _run(run: ValidatedRun) -> _Run | None:
    outcome = run.outcome
    if not isinstance(outcome, SimulatedPlan) or outcome.run is None:
        return None
    observed = observations(run.run, outcome.run)
    base = [item.of(outcome.run) for item in observed]
    kept = [index for index, value in enumerate(base) if math.isfinite(value) and value > 0]
    if not kept:
        return None
    return _Run(
        start=outcome.start,
        workload=run.run.workload,
        observed=[observed[index] for index in kept],
        base=np.array([base[index] for index in kept]),
    )


def _response(part: Part, runs: Sequence[_Run]) -> Response | None:
    """Replay every run with a part changed to either side; None where it moves nothing."""
    lowest = max(part.lowest(one.start) for one in runs)
    steps = max(-part.step, lowest), part.step
    down, up = (_moved(part, runs, step) if step else _zeros(runs) for step in steps)
    if not (np.isfinite(down).all() and np.isfinite(up).all()) or not (down.any() or up.any()):
        return None
    return Response.of(down, up, steps, is_factor=part.is_factor, prior=part.prior, lowest=lowest, highest=part.highest)


def _explained(
    runs: Sequence[_Run], y: Array, named: Mapping[str, Part], responses: Mapping[str, Response]
) -> Explanation:
    """Explain the difference; what explains much of it is replayed at the size found, and all is fitted again."""
    weights = whitening([one.observed for one in runs])
    found = explain(y, weights, responses)
    for _ in range(_ROUNDS if found.parts else 0):
        taken = [one.name for one in found.parts]
        close = [name for name, share in found.alone.items() if share > _CLOSE * max(found.alone.values())]
        sizes = {name: found.sizes[name] for name in dict.fromkeys([*taken, *close]) if found.sizes[name]}
        through = {name: responses[name].through(_moved(named[name], runs, at), at) for name, at in sizes.items()}
        found = explain(y, weights, {**responses, **through})
    return found


def _zeros(runs: Sequence[_Run]) -> Array:
    return np.zeros(sum(len(one.base) for one in runs))


def _moved(part: Part, runs: Sequence[_Run], step: float) -> Array:
    """Return the change of log(predicted) [n] of every observation when a part is changed."""
    found = []
    for one in runs:
        result = replayed(one.start, one.workload, part.change(Trial.of(one.start), step))
        found.append(np.log(np.array([item.of(result) for item in one.observed]) / one.base))
    return np.concatenate(found)


def _log_ratios(runs: Sequence[_Run], changed: Sequence[Part], sizes: Mapping[str, float]) -> Array:
    """Return log(measured / predicted) with the parts of ``changed`` at their sizes, all at once."""
    found = []
    for one in runs:
        trial = Trial.of(one.start)
        for part in changed:
            trial = part.change(trial, sizes[part.name])
        result = replayed(one.start, one.workload, trial)
        found.append(logs(one.observed, [item.of(result) for item in one.observed]))
    return np.concatenate(found)


def _means(values: Array, metrics: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean(values[[metric == name for metric in metrics]])) for name in dict.fromkeys(metrics)}


def _signed(value: float) -> str:
    return f"{abs(value):.1%} too {'high' if value >= 0 else 'low'}"
