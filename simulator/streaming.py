"""Simulate a plan over a workload in parts: memory is that of two parts and the requests under way, however many come.

Counts, sums and times are those of the run in one piece. Quantiles come from histograms of equal ratio
(``simulator.results.log_histogram``) and are off by at most ``RELATIVE_ERROR`` of their value. The three runs of the
interval (``simulator.results.interval``) go through the same parts side by side, so that each part is read once.

In a notebook::

    parts = parse_parts("synthetic:chat,rate=20,n=10000000")
    start = serving.start(parse_plan("dp2-tp4"), parts)
    result = replay_stream(serving, start, parts)
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import tee
from typing import Any, Final

from simulator.engine.result import EngineResult
from simulator.engine.stream import run_stream
from simulator.plan.pool_plan import PoolPlan
from simulator.pools.layouts import Layout
from simulator.results.interval import metric_intervals, slo_at
from simulator.results.log_histogram import RELATIVE_ERROR
from simulator.results.metrics import StreamedMetrics
from simulator.results.objective import Slo
from simulator.results.op_breakdown import op_breakdown
from simulator.results.saturation import Offered, saturation_of
from simulator.serving import Serving, StartedPlan
from simulator.simulate import SimulatedPlan, measured_plan, work_figures
from simulator.steps.step_sum import IntervalEnd
from simulator.workload.parts import WHOLE_HINT, NotStreamableError, WorkloadParts

_ENDS: Final[tuple[IntervalEnd, ...]] = ("middle", "low", "high")


def check_layout(layout: Layout, *, has_drafts: bool) -> None:
    """Refuse a plan whose engine needs all requests at once; raises ``NotStreamableError``."""
    if isinstance(layout, PoolPlan):
        reason = "requests go from one pool to the other"
    elif layout.attention_dp > 1:
        reason = "ranks of attention data parallelism step together"
    elif has_drafts:
        reason = "drafts of speculative decoding are drawn for all requests at once"
    else:
        return
    raise NotStreamableError(f"plan {layout} cannot be streamed: {reason}", hint=WHOLE_HINT)


def replay_stream(
    serving: Serving,
    start: StartedPlan,
    parts: WorkloadParts,
    slo: Slo | None = None,
    *,
    has_interval: bool = True,
    on_part: Callable[[EngineResult], None] = lambda _: None,
) -> SimulatedPlan:
    """Run the engine on a started plan, part after part, and measure what it did, with intervals where wanted.

    ``on_part`` is given what each part has finished, at the best estimate. Raises ``NotStreamableError`` for a plan
    that needs all requests at once.
    """
    check_layout(start.plan, has_drafts=bool(start.limits.num_speculative_tokens))
    limits = slo or Slo()
    frac = start.compiled.spread.first_token_frac
    ends: tuple[IntervalEnd, ...] = _ENDS if has_interval else ("middle",)
    measured = [StreamedMetrics(slo_at(end, limits.per_request, frac)) for end in ends]
    runs = [
        run_stream(start.compiled.tables(end), start.limits_at(end), own, dp=start.plan.dp, router=start.router)
        for end, own in zip(ends, tee(parts, len(ends)), strict=True)
    ]
    for finished in zip(*runs, strict=True):
        for metrics, part in zip(measured, finished, strict=True):
            metrics.add(part)
        on_part(finished[0])
    figures = [
        found.metrics().to_json() | work_figures(serving, start, found.last, found.output_tokens, end=end)
        for found, end in zip(measured, ends, strict=True)
    ]
    figures[0]["breakdown_ops"] = op_breakdown(start.compiled, measured[0].last)
    result = streamed_plan(serving, start, figures[0])
    if not has_interval:
        return result
    offered = Offered(waits=False, span_s=measured[0].arrival_span_s)
    interval = metric_intervals(figures, first_token_frac=frac)
    frontends_s = [start.limits_at(end).frontend_s for end in ends]
    return replace(result, interval=interval, saturation=saturation_of(figures, interval, offered, frontends_s))


def streamed_plan(serving: Serving, start: StartedPlan, metrics: dict[str, Any]) -> SimulatedPlan:
    """Put what was measured of a streamed plan beside how it is started; its quantiles are approximate."""
    return replace(measured_plan(serving, start, metrics, None), quantile_error_frac=RELATIVE_ERROR)
