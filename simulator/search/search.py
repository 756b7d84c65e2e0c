"""Every plan of a model on a cluster, judged by replaying the workload on each: refused with a reason, or ranked.

Plans whose number formats change what the model answers are ranked in a list of their own.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from simulator.errors import EngineLimitError
from simulator.feasible.changed_formats import changed_formats
from simulator.feasible.plan_space import Axes, enumerate_plans, smallest_fit, usual_plan
from simulator.feasible.sizing import Sizing, size_plan
from simulator.plan.plan import Plan
from simulator.plan.refused import Refused
from simulator.pools.layouts import Layout, Outcome, with_layout_interval
from simulator.pools.pool_space import enumerate_pools
from simulator.results.objective import SUSTAINABLE_RATE, Objective, Slo, read_metric, wants_capacity
from simulator.search.capacity import check_capacity
from simulator.search.fan_out import run_all
from simulator.search.judged_plans import JudgedPlans
from simulator.search.judging import Candidate, judge, judged_before, plan_of
from simulator.search.paired import Versus, effects, versus
from simulator.search.search_result import SearchResult, front_of
from simulator.serving import Refusal, Serving
from simulator.simulate import SimulatedPlan
from simulator.workload.parts import REQUEST_BYTES, WHOLE_HINT, NotStreamableError, Traffic, WorkloadParts
from simulator.workload.workload import Workload

_RIVALS: Final = 3  # plans that are compared with the best one: each replays the workload half a dozen times


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
    finds_capacity = wants_capacity(objectives)
    if finds_capacity:
        assert isinstance(workload, Workload)  # parts are refused above
        check_capacity(workload, wanted)
    _check_price(serving.cluster, [*(one.path for one in objectives), *(limit.path for limit in wanted.per_plan)])

    def judged(candidate: Candidate) -> Outcome | Refusal:
        name = str(plan_of(candidate))
        found = None if kept is None else kept.of(name)
        if found is not None:
            return judged_before(serving, candidate, workload, found)
        outcome = judge(serving, candidate, workload, wanted, wants_capacity=finds_capacity)
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
    if wants_capacity(objectives):
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
    front = {str(result.plan) for result in front_of(results, objectives)}
    return tuple(sorted(results, key=lambda result: str(result.plan) not in front))


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
