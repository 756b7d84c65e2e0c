"""Where a run's time went, op by op: the engine's sums per step table, split by what the ops in each table cost.

The engine knows how long each replica spent in its token, sampling and attention tables. Each of these sums is
shared among the table's ops in proportion to their cost at the run's mean steps (``simulator.results.mean_step``), so
the shares of a table's ops add up to what the engine counted, CUDA-graph padding included.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from simulator.engine.result import EngineResult, over_replicas
from simulator.results.mean_step import MeanSteps, Quantity, StageTotals, StepCounts, Tabled
from simulator.steps.compiled_plan import CompiledPlan, StageSums, once_each

_HOST: Final = "host"
Seconds = dict[str, float]


def op_breakdown(compiled: CompiledPlan, result: EngineResult) -> dict[str, float]:
    """Return ``<op>_frac``: shares of the span the stages were in use, summing to 1, largest first.

    ``host_frac`` is time the device waits for the engine's own code: steps shorter than the host's work, what is serial
    in each step and for each sequence, and the gaps between separately captured graph pieces. ``bubble_frac`` is time a
    pipeline stage waits for another, hand-over included, and ``idle_frac`` time without a step.
    """
    totals = result.replicas
    counts = StepCounts.of_all(totals)
    by_op = _op_totals(compiled, counts)
    spent_ps: Seconds = {}
    for weights, total_ps in (
        (_token_weights(by_op, compiled, counts), totals.token_ps),
        (_sample_weights(by_op, compiled, counts), totals.sample_ps),
        (_attention_weights(by_op), totals.attention_ps),
    ):
        _add_split(spent_ps, weights, float(over_replicas(total_ps)))
    spent_ps[_HOST] = spent_ps.get(_HOST, 0.0) + over_replicas(totals.host_ps)
    spent_ps["encoder"] = float(over_replicas(totals.encoder_ps))
    spent_ps["draft"] = float(over_replicas(totals.draft_ps))
    spent_ps["bubble"] = float(over_replicas(totals.bubble_ps))
    span_ps = over_replicas(totals.last_end_ps) * totals.stages
    spent_ps["idle"] = float(span_ps - over_replicas(totals.busy_ps) - over_replicas(totals.bubble_ps))
    ordered = sorted(spent_ps.items(), key=lambda item: (-item[1], item[0]))
    return {f"{name}_frac": ps / span_ps for name, ps in ordered if ps > 0}


def _add_split(spent_ps: Seconds, weights: Mapping[str, float], total_ps: float) -> None:
    """Share ``total_ps`` among the ops of one table by weight."""
    if total_ps == 0.0:
        return
    whole = sum(weights.values())
    if whole <= 0.0:
        raise RuntimeError(f"simulator defect: {total_ps:.0f} ps were spent in a table whose ops cost nothing")
    for name, weight in weights.items():
        spent_ps[name] = spent_ps.get(name, 0.0) + total_ps * weight / whole


def _op_totals(compiled: CompiledPlan, counts: StepCounts) -> dict[str, StageTotals]:
    """Seconds per op label at the mean steps, by table, summed over stages."""
    by_op: dict[str, StageTotals] = {}
    steps = MeanSteps(compiled.knots, counts)
    for stage in once_each(compiled.stages, lambda stage: _label_totals(stage, steps)):
        for name, seconds in stage.items():
            by_op[name] = by_op[name] + seconds if name in by_op else seconds
    return by_op


def _token_weights(by_op: Mapping[str, StageTotals], compiled: CompiledPlan, counts: StepCounts) -> Seconds:
    graphs = compiled.profile.graphs
    steps_in_pieces = counts.decode_steps if graphs.decode == "piecewise" else 0
    steps_in_pieces += counts.mixed_steps if graphs.mixed == "piecewise" else 0
    calls = sum(stage.all_reduces for stage in compiled.stages)
    return {
        **{name: total.tokens for name, total in by_op.items()},
        _HOST: steps_in_pieces * calls * compiled.profile.host.all_reduce_s + _launches_waited_for_s(compiled, counts),
    }


def _launches_waited_for_s(compiled: CompiledPlan, counts: StepCounts) -> float:
    """Seconds by which launching the ops of the mean step with prefill, where it has no graph, outlasts the ops."""
    if not counts.mixed_steps:
        return 0.0
    decoding = counts.decode_tokens / max(1, counts.steps)
    tokens = (counts.tokens - decoding * counts.decode_steps) / counts.mixed_steps
    sizes = compiled.profile.graphs.capture_sizes(compiled.shape.captured_tokens)
    if compiled.profile.graphs.mixed != "none" and sizes and tokens <= sizes[-1]:
        return 0.0
    launch_s = compiled.profile.host.launch_s
    waits = (
        stage.launches * launch_s
        - float(np.interp(tokens, compiled.knots.tokens, stage.tokens.latency_s + stage.scans.latency_s))
        for stage in compiled.stages
    )
    return counts.mixed_steps * sum(max(0.0, wait) for wait in waits)


def _sample_weights(by_op: Mapping[str, StageTotals], compiled: CompiledPlan, counts: StepCounts) -> Seconds:
    host = compiled.profile.host
    return {
        **{name: total.samples for name, total in by_op.items()},
        _HOST: counts.steps * host.serial_step_s + counts.sequences * host.serial_sequence_s,
    }


def _attention_weights(by_op: Mapping[str, StageTotals]) -> Seconds:
    """Decode attention, the slower of the two sides of prefill attention, and the expansion of cached latent KV."""
    is_compute_bound = sum(total.prefill for total in by_op.values()) >= sum(total.reads for total in by_op.values())
    return {
        name: total.decode + (total.prefill if is_compute_bound else total.reads) + total.context
        for name, total in by_op.items()
    }


def _label_totals(stage: StageSums, steps: MeanSteps) -> dict[str, StageTotals]:
    by_label = stage.kept("by label", lambda: {name: Tabled.of(stage, _of_label(name)) for name in stage.labels()})
    return {name: steps.totals(tabled) for name, tabled in by_label.items()}


def _of_label(name: str) -> Quantity:
    return lambda total: total.by_label.get(name)
