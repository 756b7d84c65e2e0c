"""Plans of one pool and of two alike: started, replayed, and given their intervals."""

from collections.abc import Collection
from typing import Any

from simulator.plan.plan import Plan
from simulator.plan.pool_plan import PoolPlan
from simulator.pools.disaggregation import (
    PoolsResult,
    PoolStarts,
    measured_pools,
    replay_pools,
    start_pools,
    with_pools_interval,
)
from simulator.results.objective import Slo
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.simulate import SimulatedPlan, measured_plan, replay, with_interval
from simulator.workload.workload import Workload

Layout = Plan | PoolPlan
Started = StartedPlan | PoolStarts
Outcome = SimulatedPlan | PoolsResult


def start_layout(serving: Serving, layout: Layout, workload: Workload) -> Started | Refusal:
    """Check, size and compile ``layout`` for ``workload``."""
    if isinstance(layout, PoolPlan):
        return start_pools(serving, layout, workload)
    return serving.start(layout, workload)


def replay_layout(
    serving: Serving, started: Started, workload: Workload, slo: Slo | None = None, *, log: bool = False
) -> Outcome:
    """Replay ``workload`` and measure; ``log`` keeps a row per iteration, of plans of one pool alone."""
    if isinstance(started, PoolStarts):
        return replay_pools(serving, started, workload, slo)
    return replay(serving, started, workload, slo, log=log)


def measured_layout(serving: Serving, started: Started, metrics: dict[str, Any]) -> Outcome:
    """Return the outcome of a plan whose metrics are known from an earlier replay."""
    if isinstance(started, PoolStarts):
        return measured_pools(serving, started, metrics, None)
    return measured_plan(serving, started, metrics, None)


def with_layout_interval(
    serving: Serving,
    outcome: Outcome,
    workload: Workload,
    slo: Slo | None = None,
    *,
    of: Collection[str] | None = None,
) -> Outcome:
    """Add the metrics' 90 % intervals; ``of`` names those that are wanted, where others may be left out."""
    if isinstance(outcome, PoolsResult):
        return with_pools_interval(serving, outcome, workload, slo)
    return with_interval(serving, outcome, workload, slo, of=of)
