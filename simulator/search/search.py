"""Every plan of a model on a cluster, judged by replaying the workload on each: refused with a reason, or ranked.

Plans whose number formats change what the model answers are ranked in a list of their own.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import field, replace
from itertools import islice
from typing import Any, Final

import numpy as np

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.errors import EngineLimitError
from simulator.feasible.changed_formats import changed_formats
from simulator.feasible.plan_space import Axes, enumerate_plans, smallest_fit, usual_plan
from simulator.feasible.sizing import Sizing, size_plan
from simulator.plan.plan import Plan
from simulator.plan.refused import Refused
from simulator.pools.layouts import Layout, Outcome, with_layout_interval
from simulator.pools.pool_space import enumerate_pools
from simulator.results.objective import SUSTAINABLE_RATE, Limit, Objective, Slo, read_metric
from simulator.results.risk import chance_of_keeping
from simulator.search.capacity import check_capacity
from simulator.search.fan_out import run_all
from simulator.search.judged_plans import JudgedPlans
from simulator.search.judging import Candidate, judge, judged_before, plan_of
from simulator.search.paired import Versus, effects, versus
from simulator.serving import Refusal, Serving
from simulator.simulate import SimulatedPlan
from simulator.workload.parts import REQUEST_BYTES, WHOLE_HINT, NotStreamableError, Traffic, WorkloadParts
from simulator.workload.workload import Workload

_RIVALS: Final = 3  # plans that are compared with the best one: each replays the workload half a dozen times


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Plans best first, those that change the model's answers, those that break a limit, and the refused ones."""

    ranked: tuple[Outcome, ...]
    breaking: tuple[tuple[Outcome, tuple[Limit, ...]], ...]
    refused: tuple[Refusal, ...]
    objective: Objective
    slo: Slo
    changing: tuple[Outcome, ...] = ()  # keep every limit, in formats coarser than the checkpoint's; best first
    inputs: dict[str, Any] = field(default_factory=dict)
    further: tuple[Objective, ...] = ()  # objectives beside the first: plans that none beats in all come first
    made_by: dict[str, Any] = field(default_factory=dict)  # the command, and digests of what it read
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # coarser formats, by plan that has some
    usual: Plan | None = None  # what people choose without a search; None where plans were stated
    notes: list[str] = field(default_factory=list)  # what was decided for the user, and what prices rest on
    versus_best: Mapping[str, Versus] = field(
        default_factory=dict
    )  # by plan: next ones that intervals do not tell apart

    @property
    def simulated(self) -> tuple[Outcome, ...]:
        """Every plan that ran: those ranked, those that change the model's answers, those that break a limit."""
        return (*self.ranked, *self.changing, *(result for result, _ in self.breaking))

    @property
    def best(self) -> Outcome | None:
        """The plan to start: one that changes the model's answers only where no other keeps every limit."""
        return next(iter((*self.ranked, *self.changing)), None)

    @property
    def front(self) -> tuple[Outcome, ...]:
        """The ranked plans that no other beats in every objective."""
        return _front(self.ranked, (self.objective, *self.further))

    @property
    def usual_outcome(self) -> Outcome | Refusal | None:
        """What became of the usual plan; None where it was not among those tried."""
        return next((one for one in (*self.simulated, *self.refused) if one.plan == self.usual), None)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame of every plan; its columns are those of ``simulator.outputs.plans``."""
        from simulator.outputs.plans import plans_table
        from simulator.outputs.tables import as_frame

        return as_frame(plans_table(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Return the whole search as plain values, schema 1."""
        simulated = len(self.simulated)
        front = {str(result.plan) for result in self.front}
        broken = {str(result.plan): [str(limit) for limit in limits] for result, limits in self.breaking}
        return {
            "schema": 1,
            "made_by": self.made_by,
            "inputs": self.inputs,
            "notes": self.notes,
            "counts": {
                "enumerated": simulated + len(self.refused),
                "rejected": len(self.refused),
                "pruned": 0,  # a plan is simulated in milliseconds: none is ruled out by a bound
                "simulated": simulated,
            },
            "usual_plan": self._usual_facts(),
            "plans": [
                {
                    **result.to_json(),
                    **self._facts_here(result, front),
                    "group": name,
                    "breaks": broken.get(str(result.plan), []),
                }
                for name, results in self._groups()
                for result in results
            ],
            "rejected": [
                {"plan": str(refusal.plan), "reason": refusal.reason, "by": refusal.by} for refusal in self.refused
            ],
        }

    def _groups(self) -> Iterator[tuple[str, Iterable[Outcome]]]:
        """Yield the plans of each list under its name in the JSON; every plan that ran is in one."""
        yield from (("ranked", self.ranked), ("changing", self.changing))
        yield "breaking", (result for result, _ in self.breaking)

    def _usual_facts(self) -> dict[str, Any] | None:
        """Return the usual plan, its value of the objective over the best plan's, and why it cannot start."""
        usual = self.usual_outcome
        if usual is None:
            return None
        if isinstance(usual, Refusal):
            return {"plan": str(usual.plan), "ratio": None, "reason": usual.reason}
        return {"plan": str(usual.plan), "ratio": self.ratio_to_best(usual, self.objective.path), "reason": None}

    def ratio_to_best(self, result: Outcome, path: str) -> float | None:
        """Return a plan's value of a metric over the best plan's; None where either is unknown or nothing."""
        ours = None if self.best is None else read_metric(self.best.metrics, path)
        theirs = read_metric(result.metrics, path)
        return theirs / ours if ours and theirs is not None else None

    def chances(self, result: Outcome) -> dict[str, float]:
        """Return the probability that a plan keeps each limit on it, by the limit; none without an interval."""
        known = {str(one): chance_of_keeping(one, result.metrics, result.interval) for one in self.slo.per_plan}
        return {name: chance for name, chance in known.items() if chance is not None}

    def _facts_here(self, result: Outcome, front: Set[str]) -> dict[str, Any]:
        """Return what is known of a plan only beside the others of this search."""
        found, changes = self.versus_best.get(str(result.plan)), self.changes.get(str(result.plan))
        chances = self.chances(result)
        return {
            **({} if found is None else {"versus_best": found.to_json()}),
            **({} if changes is None else {"changes_answers": list(changes)}),
            **({"keeps_frac": chances} if chances else {}),
            **({"on_front": str(result.plan) in front} if self.further else {}),
        }


def search(
    serving: Serving,
    workload: Traffic,
    objective: Objective,
    *,
    slo: Slo | None = None,
    axes: Axes | None = None,
    plans: Sequence[Layout] | None = None,
    threads: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
    kept: JudgedPlans | None = None,
    formats_together: bool = False,
    further: Sequence[Objective] = (),
) -> SearchResult:
    """Simulate every plan of ``axes`` (or those of ``plans``) and rank them by ``objective``.

    With ``further`` objectives the plans that no other beats in all of them come first.

    Plans in formats coarser than the checkpoint's are ranked apart, unless all plans are or ``formats_together`` says
    that it does not matter.

    The engine releases the interpreter lock, so plans run on ``threads`` threads (all cores by default), all of which
    end soon after an interrupt. ``on_done`` is called with (finished, total). What ``kept`` holds is not simulated
    again, and it is given the rest. The result does not depend on the number of threads, nor on what was kept. A
    workload in parts is streamed: plans that need all requests at once are refused.
    """
    objectives = (objective, *further)
    needs_all = needs_all_requests(objectives, pools=axes is not None and axes.pools)
    if needs_all is not None and not isinstance(workload, Workload):
        raise NotStreamableError(needs_all, hint=WHOLE_HINT)
    candidates, refused = candidates_of(serving, workload, axes, plans)
    changes = _changes(serving, map(plan_of, candidates))
    if formats_together and not changes:
        raise UserError("no plan is in coarser formats than the checkpoint's: --formats-together has nothing to do")
    is_apart = not formats_together and len(changes) < len(candidates)
    wanted = slo or Slo()
    wants_capacity = any(one.path == SUSTAINABLE_RATE for one in objectives)
    if wants_capacity:
        assert isinstance(workload, Workload)  # parts are refused above
        check_capacity(workload, wanted)
    _check_price(serving.cluster, [*(one.path for one in objectives), *(limit.path for limit in wanted.per_plan)])

    def judged(candidate: Candidate) -> Outcome | Refusal:
        name = str(plan_of(candidate))
        found = None if kept is None else kept.of(name)
        if found is not None:
            return judged_before(serving, candidate, workload, found)
        outcome = judge(serving, candidate, workload, wanted, wants_capacity=wants_capacity)
        if kept is not None:
            kept.add(name, Refused(outcome.reason, outcome.by) if isinstance(outcome, Refusal) else outcome.metrics)
        return outcome

    outcomes = run_all(judged, candidates, threads=at_once(workload, threads), on_done=on_done)
    found = _ranked(outcomes, refused, objectives, wanted, changes=changes, is_apart=is_apart)
    if plans is not None or serving.cluster.num_devices == 1:
        return found  # nothing is chosen
    return replace(found, usual=usual_plan(serving.model, serving.cluster))


def needs_all_requests(objectives: Sequence[Objective], *, pools: bool) -> str | None:
    """Say why a search cannot go through its workload in parts; None where it can."""
    if pools:
        return "--pools cannot be streamed: requests go from one pool to the other"
    if any(one.path == SUSTAINABLE_RATE for one in objectives):
        return f"{SUSTAINABLE_RATE} cannot be streamed: the trace is repeated at other rates"
    return None


def at_once(workload: Traffic, threads: int | None) -> int:
    """Return on how many threads (all cores without ``threads``) plans are simulated: whole runs fill memory.

    They may take half of the machine's; plans wait for one another beyond, and the answer is the same.
    """
    most = threads or os.cpu_count() or 1
    if isinstance(workload, WorkloadParts):
        return most
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(most, memory_bytes // (2 * REQUEST_BYTES * len(workload))))


def candidates_of(
    serving: Serving, workload: Traffic, axes: Axes | None, plans: Sequence[Layout] | None
) -> tuple[list[Candidate], list[Refusal]]:
    """Return what is to be judged, and the pools of which one half cannot start; raises ``UserError`` for nothing."""
    candidates: list[Candidate] = []
    refused: list[Refusal] = []
    if plans is not None:
        candidates += plans
    else:
        candidates += enumerate_plans(serving.model, serving.cluster, axes, serving.profile.layouts)
        if axes is not None and axes.pools:
            assert isinstance(workload, Workload)  # parts are refused before
            pairs, refused = enumerate_pools(serving, workload, axes)
            candidates += pairs
    if not candidates:
        raise UserError("no plan to search", hint="name at least one plan")
    return candidates, refused


def _changes(serving: Serving, layouts: Iterable[Layout]) -> dict[str, tuple[str, ...]]:
    """Name the coarser formats of each layout that has some."""
    device = serving.cluster.device
    coarser = {str(layout): changed_formats(serving.model, layout, device, serving.profile) for layout in layouts}
    return {name: formats for name, formats in coarser.items() if formats}


def _ranked(
    outcomes: Sequence[Outcome | Refusal],
    refused: Sequence[Refusal],
    objectives: Sequence[Objective],
    slo: Slo,
    *,
    changes: Mapping[str, tuple[str, ...]],
    is_apart: bool,
) -> SearchResult:
    """Order the plans that ran by the first objective, those that break a limit apart from those that keep them all.

    With ``is_apart`` those that keep them and are named in ``changes`` are apart from the others.
    """
    # A plan that rejects requests looks faster than one that serves them all.
    results = sorted(
        (outcome for outcome in outcomes if not isinstance(outcome, Refusal)),
        key=lambda result: (-result.metrics["finished"], objectives[0].rank(result.metrics), str(result.plan)),
    )
    for path in (one.path for one in objectives):
        if results and all(read_metric(result.metrics, path) is None for result in results):
            raise UserError(f"objective: {path} is unknown for every plan", hint="rank by another metric")
    broken = [slo.broken(result.metrics) for result in results]
    keeping = [result for result, limits in zip(results, broken, strict=True) if not limits]
    apart = changes if is_apart else {}
    ranked = [result for result in keeping if str(result.plan) not in apart]
    changing = [result for result in keeping if str(result.plan) in apart]
    return SearchResult(
        ranked=_front_first(ranked, objectives),
        changing=_front_first(changing, objectives),
        changes=changes,
        breaking=tuple((result, limits) for result, limits in zip(results, broken, strict=True) if limits),
        refused=(*(outcome for outcome in outcomes if isinstance(outcome, Refusal)), *refused),
        objective=objectives[0],
        further=tuple(objectives[1:]),
        slo=slo,
    )


def _front_first(results: Sequence[Outcome], objectives: Sequence[Objective]) -> tuple[Outcome, ...]:
    """Put the plans that no other beats in every objective before the rest, each part in its order."""
    if len(objectives) == 1:
        return tuple(results)
    front = {str(result.plan) for result in _front(results, objectives)}
    return tuple(sorted(results, key=lambda result: str(result.plan) not in front))


def _front(results: Sequence[Outcome], objectives: Sequence[Objective]) -> tuple[Outcome, ...]:
    """Return the plans that no other beats: as many requests answered, as good in every objective, better in one."""
    ranks = np.array([[-one.metrics["finished"], *(aim.rank(one.metrics) for aim in objectives)] for one in results])
    return tuple(
        result
        for result, own in zip(results, ranks, strict=True)
        if not np.any(np.all(ranks <= own, axis=1) & np.any(ranks < own, axis=1))
    )


def _check_price(cluster: ClusterSpec, paths: Sequence[str]) -> None:
    """Refuse metrics in money before anything is simulated, where nobody said what a device costs."""
    in_money = [path for path in paths if path.startswith("usd_")]
    if in_money and cluster.usd_per_device_hour is None:
        raise UserError(
            f"{in_money[0]} is unknown: cluster {cluster.name} states no price of a device",
            hint="pass --usd-per-device-hour, or state usd_per_device_hour in the cluster file",
        )


def with_intervals(
    found: SearchResult,
    serving: Serving,
    workload: Traffic,
    slo: Slo | None = None,
    *,
    first: int,
    of: Collection[str] | None = None,
    threads: int | None = None,
) -> SearchResult:
    """Add the intervals of their metrics to the ``first`` plans, and to as many of those that change answers.

    Breaking ones come after those ranked. ``of`` names the metrics that are wanted beside the objective, where others
    may be left out: energy and use of the devices take as long as the replay.

    The best plan is compared with the next ones whose intervals overlap its own, by what both are off by together; a
    streamed workload would have to be read half a dozen times for each, and is not.
    """
    wanted = None if of is None else {found.objective.path, *(one.path for one in found.further), *of}
    left = max(0, first - len(found.ranked))
    lists = (found.ranked[:first], found.changing[:first], tuple(result for result, _ in found.breaking[:left]))

    def widened(result: Outcome) -> Outcome:
        try:
            if isinstance(workload, Workload):
                return with_layout_interval(serving, result, workload, slo, of=wanted)
            assert isinstance(result, SimulatedPlan)  # others were refused
            from simulator.streaming import replay_stream

            return replay_stream(serving, result.start, workload, slo)
        except EngineLimitError:
            return result  # at its slow end the plan outlasts the engine's clock: no interval is known

    threads = at_once(workload, threads)
    known = iter(run_all(widened, [result for part in lists for result in part], threads=threads))
    ranked, changing, breaking = (tuple(islice(known, len(part))) for part in lists)
    return replace(
        found,
        versus_best=_versus_best(serving, ranked, workload, found.objective, slo, threads=threads)
        if isinstance(workload, Workload)
        else {},
        ranked=(*ranked, *found.ranked[len(ranked) :]),
        changing=(*changing, *found.changing[len(changing) :]),
        breaking=(
            *((result, limits) for result, (_, limits) in zip(breaking, found.breaking[:left], strict=True)),
            *found.breaking[left:],
        ),
    )


def _versus_best(
    serving: Serving,
    ranked: Sequence[Outcome],
    workload: Workload,
    objective: Objective,
    slo: Slo | None,
    *,
    threads: int | None,
) -> dict[str, Versus]:
    """Compare the first plan with the next ones that its interval does not tell from it, by plan."""
    if not ranked or not isinstance(best := ranked[0], SimulatedPlan):
        return {}
    own = (best.interval or {}).get(objective.path)
    rivals = [
        result
        for result in ranked[1:]
        if isinstance(result, SimulatedPlan)
        and result.metrics["finished"] == best.metrics["finished"]
        and own is not None
        and (other := (result.interval or {}).get(objective.path)) is not None
        and other[0] <= own[1]
        and own[0] <= other[1]
    ][:_RIVALS]
    if not rivals:
        return {}
    known = run_all(
        lambda plan: effects(serving, plan, workload, objective.path, slo), [best, *rivals], threads=threads
    )
    ours = known[0]
    return {
        str(rival.plan): versus(ours, theirs, objective)
        for rival, theirs in zip(rivals, known[1:], strict=True)
        if ours is not None and theirs is not None
    }


def smallest_cluster(serving: Serving, workload: Traffic) -> Plan | None:
    """Return the layout on the fewest devices of this kind that holds the model; None when no number does."""
    return smallest_fit(
        serving.model,
        serving.cluster.device,
        lambda plan: isinstance(size_plan(serving, plan, workload), Sizing),
        devices_per_node=serving.cluster.devices_per_node,
    )
