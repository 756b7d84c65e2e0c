"""A plan of two pools, from start to metrics: what `simulate` does for a plan of one.

The KV of a prompt goes over the slowest link between the pools, as a point-to-point transfer that the cost model
prices: every rank of one replica sends its share at once, and the rank that sends or receives most decides. It starts
when the prompt is computed; engines that send layer by layer hide a part of it. Prefixes are cached in the prefill pool
alone, and drafts run in the decode pool alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.op_types import Collective
from simulator.engine.cost_arrays import cost_cells
from simulator.engine.disaggregated import DisaggregatedResult, HandOver, Pool, run_disaggregated
from simulator.engine.result import EngineResult
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.pool_rules import PoolRules
from simulator.feasible.engine_support import engines_for
from simulator.feasible.kv_format import kv_format, served
from simulator.launch import decode_command, pool_launch_lines, prefill_command
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.plan.pool_plan import PoolPlan
from simulator.pools.shared_sides import SharedSides
from simulator.results.interval import Interval, metric_intervals, slo_at
from simulator.results.metrics import Distribution, OfReplicas, summarise, summarise_replicas
from simulator.results.objective import Slo
from simulator.results.op_breakdown import op_breakdown
from simulator.results.run_work import RunWork, run_work, work_metrics
from simulator.results.saturation import Offered, Saturation, saturation_of
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.simulate import limits_facts, memory_facts
from simulator.steps.step_sum import IntervalEnd
from simulator.workload.workload import Workload

I64 = NDArray[np.int64]

_S_PER_PS: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStarts:
    """Both pools as an engine would start them."""

    prefill: StartedPlan
    decode: StartedPlan
    shared: SharedSides = field(default_factory=SharedSides, compare=False, repr=False)

    @property
    def plan(self) -> PoolPlan:
        """The plan started."""
        return PoolPlan(prefill=self.prefill.plan, decode=self.decode.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolsResult:
    """Two simulated pools; the same face as ``simulate.Result``."""

    starts: PoolStarts
    metrics: dict[str, Any]
    run: EngineResult | None  # the client's times; None where a search has let go of it
    engines: dict[str, str | None]
    launch: tuple[str, ...]
    interval: Mapping[str, Interval] | None = None
    saturation: Saturation | None = None

    @property
    def plan(self) -> PoolPlan:
        """The plan simulated."""
        return self.starts.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed so that the pools start."""
        pools = {"prefill": self.starts.prefill, "decode": self.starts.decode}
        return tuple(f"{name}: {note}" for name, start in pools.items() for note in start.notes)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame of every request; its columns are those of ``simulator.outputs.requests``.

        Raises ``UserError`` where the requests were not kept.
        """
        from simulator.outputs.requests import request_frame

        return request_frame(self.run, str(self.plan))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `apex simulate --json` prints them."""
        pools = {"prefill": self.starts.prefill, "decode": self.starts.decode}
        interval = {} if self.interval is None else {path: list(ends) for path, ends in self.interval.items()}
        return {
            "plan": str(self.plan),
            "feasible": True,
            "devices": self.plan.num_devices,
            "metrics": self.metrics,
            **({"metrics_interval": interval} if interval else {}),
            **({} if self.saturation is None else {"saturation": self.saturation.to_json()}),
            "limits": {name: limits_facts(start) for name, start in pools.items()},
            "memory": {name: memory_facts(start) for name, start in pools.items()},
            "engines": self.engines,
            "launch": list(self.launch),
            "notes": list(self.notes),
        }


def start_pools(serving: Serving, plan: PoolPlan, workload: Workload) -> PoolStarts | Refusal:
    """StartedPlan both pools of ``plan`` for ``workload``, or say why that cannot be."""
    reason = _refusal(serving, plan, workload)
    if reason is not None:
        return Refusal(plan=plan, reason=reason)
    begun = []
    for name, server, side in (
        ("prefill", prefill_serving(serving), plan.prefill),
        ("decode", serving, plan.decode),
    ):
        start = server.start(side, workload)
        if isinstance(start, Refusal):
            return Refusal(plan=plan, reason=f"{name} pool: {start.reason}", by=start.by)
        begun.append(start)
    return PoolStarts(prefill=begun[0], decode=begun[1])


def prefill_serving(serving: Serving) -> Serving:
    """Return the servers of the prefill pool, where the engine schedules no step ahead if it cannot do so there."""
    rules = serving.profile.pools
    if rules is None or not rules.prefill_is_synchronous:
        return serving
    return replace(serving, overrides=replace(serving.overrides, async_scheduling=False))


def replay_pools(serving: Serving, starts: PoolStarts, workload: Workload, slo: Slo | None = None) -> PoolsResult:
    """Replay ``workload`` on two started pools and measure what they did."""
    metrics, run = _measure(serving, starts, workload, slo, "middle")
    return measured_pools(serving, starts, metrics, run)


def measured_pools(
    serving: Serving, starts: PoolStarts, metrics: dict[str, Any], run: EngineResult | None
) -> PoolsResult:
    """Put what was measured of two started pools beside how they are started."""
    prefill, decode, kept = starts.prefill, starts.decode, starts.shared

    def engines_of(start: StartedPlan) -> dict[str, str | None]:
        device, profile = serving.cluster.device, serving.profile
        return kept.of("engines", start, lambda: engines_for(serving.model, start.plan, device, profile))

    sides = engines_of(prefill), engines_of(decode)
    engines = {engine: sides[0][engine] or sides[1][engine] for engine in sides[0]}
    launch = pool_launch_lines(
        serving,
        kept.of("prefill command", prefill, lambda: prefill_command(serving, prefill)),
        kept.of("decode command", decode, lambda: decode_command(serving, decode)),
    )
    return PoolsResult(starts=starts, metrics=metrics, run=run, engines=engines, launch=launch)


def with_pools_interval(
    serving: Serving, result: PoolsResult, workload: Workload, slo: Slo | None = None
) -> PoolsResult:
    """Add the metrics' 90 % intervals: two more runs, with all steps and transfers at either end of theirs."""
    ends: tuple[IntervalEnd, IntervalEnd] = ("low", "high")
    runs = [_measure(serving, result.starts, workload, slo, end)[0] for end in ends]
    frac = result.starts.prefill.compiled.spread.first_token_frac
    every = [result.metrics, *runs]
    interval = metric_intervals(every, first_token_frac=frac)
    frontends_s = [result.starts.prefill.limits_at(end).frontend_s for end in ("middle", *ends)]
    verdict = saturation_of(every, interval, Offered.of(workload), frontends_s)
    return replace(result, interval=interval, saturation=verdict)


def kv_bytes_per_token(model: ModelSpec, plan: PoolPlan, profile: EngineProfile) -> float:
    """Bytes per prompt token that the busiest rank sends or receives."""
    return max(model.kv_bytes_per_token(served(model, side, profile)) / side.pp for side in (plan.prefill, plan.decode))


def pools_refusal(serving: Serving, workload: Workload) -> str | None:
    """Why no pair of pools can be simulated for this engine and workload; None when some can."""
    if serving.profile.pools is None:
        return f"{serving.profile.name} does not say how two pools hand requests over ([pools] of its profile)"
    if workload.client_timeout_s is not None or workload.replica is not None:
        return "client time-outs and recorded replicas are not simulated in two pools"
    if serving.profile.pools.passes_first_token and serving.overrides.speculative_tokens:
        return f"speculative decoding is not simulated in two pools of {serving.profile.engine}"
    return None


def stages_refusal(serving: Serving, plan: Plan) -> str | None:
    """Why neither pool of that layout can be simulated; None where it can."""
    if serving.profile.policy == "sglang" and plan.pp > 1:
        return f"pipeline stages in two pools of {serving.profile.engine} are not simulated"
    return None


def decode_refusal(serving: Serving, plan: Plan) -> str | None:
    """Why a decode pool of that layout cannot be simulated; None where it can."""
    reason = stages_refusal(serving, plan)
    if reason is not None:
        return reason
    rules = serving.profile.pools
    if rules is not None and rules.passes_first_token and plan.pp > 1:
        return f"pipeline stages in a decode pool of {serving.profile.engine} are not simulated"
    return None


def _refusal(serving: Serving, plan: PoolPlan, workload: Workload) -> str | None:
    """Why the pair of pools cannot be simulated, whatever each of them could."""
    cluster = serving.cluster
    if plan.num_devices > cluster.num_devices:
        return f"needs {plan.num_devices} devices, {cluster.name} has {cluster.num_devices}"
    formats = [kv_format(serving.model, side, serving.profile).dtype for side in (plan.prefill, plan.decode)]
    if formats[0] != formats[1]:
        return f"KV formats differ: prefill {formats[0]}, decode {formats[1]}"
    refusal = pools_refusal(serving, workload) or stages_refusal(serving, plan.prefill)
    return refusal or decode_refusal(serving, plan.decode)


def _stride(cluster: ClusterSpec, devices: int) -> int:
    """Distance of two devices that reach each other over the outermost link inside ``devices`` neighbours."""
    inner = [link.group_size for link in cluster.levels if link.group_size < devices]
    return inner[-1] if inner else 1


def _transfer_s(serving: Serving, plan: PoolPlan, prompt_tokens: I64, end: IntervalEnd) -> NDArray[np.float64]:
    """Seconds the KV of each prompt is on the link, [n]."""
    sent = np.ceil(prompt_tokens * kv_bytes_per_token(serving.model, plan, serving.profile)).astype(np.int64)
    stride = _stride(serving.cluster, plan.num_devices)
    curve = serving.curves(plan.prefill.clock_mhz).price(
        Collective(kind="send_recv", message_bytes=sent, ranks=2, group_stride=stride)
    )
    return {"low": curve.low_s, "middle": curve.latency_s, "high": curve.high_s}[end]


def _measure(
    serving: Serving, starts: PoolStarts, workload: Workload, slo: Slo | None, end: IntervalEnd
) -> tuple[dict[str, Any], EngineResult]:
    """Run both pools with all prices at ``end``: metrics, and the client's view of the run."""
    prefill, decode, plan = starts.prefill, starts.decode, starts.plan
    agreed = _hand_over(serving, decode, end)
    done = run_disaggregated(
        starts.shared.of(f"prefill at {end}", prefill, lambda: _pool(prefill, end, num_speculative_tokens=0)),
        starts.shared.of(f"decode at {end}", decode, lambda: _pool(decode, end, enable_prefix_caching=False)),
        workload,
        transfer_s=lambda prompt_tokens: _transfer_s(serving, plan, prompt_tokens, end),
        hand_over=agreed,
    )
    wanted = slo_at(end, (slo or Slo()).per_request, prefill.compiled.spread.first_token_frac)
    metrics = summarise(done.requests, wanted).to_json()
    of_decode = {name: metrics.pop(name) for name in OfReplicas.__slots__}
    works = []
    for name, start, run, whole in (
        ("prefill", prefill, done.prefill, summarise_replicas(done.prefill).to_json()),
        ("decode", decode, done.requests, of_decode),
    ):
        shares = whole.pop("breakdown")
        metrics[name] = whole | shares
        metrics[f"{name}_ops"] = op_breakdown(start.compiled, run)
        works.append(run_work(start.compiled, run, start.plan, serving.cluster, end=end))
    metrics["kv_transfer_s"] = asdict(Distribution.of(_transfers_s(done, agreed)))
    output_tokens = int(done.requests.output_tokens[done.requests.is_finished].sum())
    scheme = plan.decode.weight_dtype or serving.model.quantisation or serving.model.dtype
    work = _sum_work(serving, works, plan)
    metrics |= work_metrics(work, plan.decode, serving.cluster, output_tokens, SCHEMES[scheme].compute)
    return metrics, done.requests


def _pool(start: StartedPlan, end: IntervalEnd, **changed: Any) -> Pool:
    tables = start.compiled.tables(end)
    limits = replace(start.limits_at(end), batch_wait_iters=0, ranks_wait_iters=0, **changed)
    return Pool(
        tables=tables,
        limits=limits,
        costs=cost_cells(tables, limits),
        dp=start.plan.dp,
        attention_dp=start.plan.attention_dp,
        router=start.router,
    )


def _hand_over_s(rules: PoolRules, end: IntervalEnd) -> float:
    sign = {"low": -1, "middle": 0, "high": 1}[end]
    return max(0.0, rules.hand_over_s + sign * error_of(rules.hand_over_s))


def _hand_over(serving: Serving, decode: StartedPlan, end: IntervalEnd) -> HandOver:
    rules = serving.profile.pools
    if rules is None:
        raise ValueError("pools of an engine without rules for them are refused before")
    return HandOver(
        offers_first=rules.offers_first,
        passes_first_token=rules.passes_first_token,
        draws_ranks=rules.draws_prefill_ranks,
        reserved_tokens=rules.reserved_tokens,
        delay_s=_hand_over_s(rules, end) + (decode.limits_at(end).frontend_s if rules.tokenises_twice else 0.0),
    )


def _transfers_s(done: DisaggregatedResult, agreed: HandOver) -> NDArray[np.float64]:
    """From the end of each prompt, or its arrival in the decode pool, to that of its KV: waits for blocks and links."""
    sent = done.kv_ready_ps >= 0
    waited_s = (done.kv_ready_ps[sent] - done.prefill.finish_ps[sent]).astype(np.float64) * _S_PER_PS
    return waited_s - (0.0 if agreed.offers_first else agreed.delay_s)


def _sum_work(serving: Serving, parts: list[RunWork], plan: PoolPlan) -> RunWork:
    """Add the pools up over the longer of their spans; the shorter one idles for the rest."""
    counts = (plan.prefill.num_devices, plan.decode.num_devices)
    span_s = max(part.total_device_s / count for part, count in zip(parts, counts, strict=True))
    total_s = span_s * plan.num_devices
    idle_j = serving.cluster.device.idle_w * (total_s - sum(part.total_device_s for part in parts))
    energies = [part.energy_j for part in parts if part.energy_j is not None]
    return RunWork(
        flop=sum(part.flop for part in parts),
        memory_bytes=sum(part.memory_bytes for part in parts),
        energy_j=sum(energies) + idle_j if len(energies) == len(parts) else None,
        busy_device_s=sum(part.busy_device_s for part in parts),
        total_device_s=total_s,
        power_log_width=_joint_width(parts),
    )


def _joint_width(parts: list[RunWork]) -> float:
    """Return the width of the joules of pools whose devices are off alike: that of each by its share of them."""
    whole_j = sum(part.energy_j or 0.0 for part in parts)
    return sum((part.energy_j or 0.0) * part.power_log_width for part in parts) / whole_j if whole_j else 0.0
