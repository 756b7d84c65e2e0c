"""One plan of a search judged: started, replayed over the workload, its sustainable rate found where it is asked for.

A workload in parts is replayed part after part; a plan that needs all requests at once is then refused by name.
"""

from dataclasses import replace
from typing import Any

from simulator.errors import EngineLimitError
from simulator.plan.plan import Plan
from simulator.plan.refused import Refused
from simulator.pools.disaggregation import PoolStarts
from simulator.pools.layouts import Layout, Outcome, Started, measured_layout, replay_layout, start_layout
from simulator.results.objective import SUSTAINABLE_RATE, Slo
from simulator.search.capacity import find_capacity
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.workload.parts import NotStreamableError, Traffic, WorkloadParts
from simulator.workload.workload import Workload

Candidate = Layout | PoolStarts


def plan_of(candidate: Candidate) -> Layout:
    """Return the plan of a candidate, started or not."""
    return candidate.plan if isinstance(candidate, PoolStarts) else candidate


def judge(
    serving: Serving, candidate: Candidate, workload: Traffic, slo: Slo, *, wants_capacity: bool
) -> Outcome | Refusal:
    """Replay ``workload`` on ``candidate``; ``wants_capacity`` adds the most traffic within ``slo``."""
    begun = started(serving, candidate, workload)
    if isinstance(begun, Refusal):
        return begun
    try:
        outcome = _replayed(serving, begun, workload, slo)
    except EngineLimitError as error:
        return Refusal(plan=begun.plan, reason=str(error))
    if wants_capacity:
        assert isinstance(workload, Workload)  # refused for parts before anything was judged
        capacity = find_capacity(lambda scaled: replay_layout(serving, begun, scaled, slo).metrics, workload, slo)
        outcome.metrics[SUSTAINABLE_RATE] = capacity.requests_per_s
        outcome.metrics["sustainable_is_short"] = capacity.is_short
    if outcome.metrics["finished"] == 0:
        reasons = ", ".join(outcome.metrics["rejected"])
        return Refusal(plan=outcome.plan, reason=f"no request is answered ({reasons})", by="settings")
    return replace(outcome, run=None)  # a row per request of thousands of plans would fill the memory


def judged_before(
    serving: Serving, candidate: Candidate, workload: Traffic, found: dict[str, Any] | Refused
) -> Outcome | Refusal:
    """Return the outcome of a plan from what an earlier run of the same search has kept: metrics, or a reason.

    It is started again, in milliseconds, so that everything about it but the replay is made anew.
    """
    begun = started(serving, candidate, workload)
    if isinstance(begun, Refusal):
        return begun
    if isinstance(found, Refused):
        return Refusal(plan=begun.plan, reason=found.reason, by=found.by)
    if isinstance(workload, WorkloadParts):
        assert isinstance(begun, StartedPlan)  # others are refused
        from simulator.streaming import streamed_plan

        return streamed_plan(serving, begun, found)
    return measured_layout(serving, begun, found)


def started(serving: Serving, candidate: Candidate, workload: Traffic) -> Started | Refusal:
    """Start a candidate, or say why it cannot be; one of two pools is started already."""
    if isinstance(workload, Workload):
        return candidate if isinstance(candidate, PoolStarts) else start_layout(serving, candidate, workload)
    from simulator.streaming import check_layout

    plan = plan_of(candidate)
    try:
        check_layout(plan, has_drafts=bool(serving.overrides.speculative_tokens))
    except NotStreamableError as refusal:
        return Refusal(plan=plan, reason=f"{refusal} ({refusal.hint})")
    assert isinstance(plan, Plan)  # two pools are refused above
    return serving.start(plan, workload)


def _replayed(serving: Serving, started: Started, workload: Traffic, slo: Slo) -> Outcome:
    if isinstance(workload, Workload):
        return replay_layout(serving, started, workload, slo)
    assert isinstance(started, StartedPlan)  # others are refused
    from simulator.streaming import replay_stream

    return replay_stream(serving, started, workload, slo, has_interval=False)
