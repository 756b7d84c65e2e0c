"""From a plan and a workload to what a user would see: start the plan, replay the workload, measure.

In a notebook::

    from cluster_specs.load import load_cluster
    from costmodel.bundled_fits import choose_costs
    from simulator.model.load_model import load_model
    from simulator.plan.plan import parse_plan
    from simulator.simulate import simulate
    from simulator.workload.parse import parse_workload

    cluster, model = load_cluster("h100-sxm-8"), load_model("llama-3.1-70b")
    workload = parse_workload("chat-synthetic")
    result = simulate(parse_plan("dp2-tp4"), workload, cluster, choose_costs(None, cluster), model=model)
    print(result.metrics["ttft_s"]["p99"], result.interval["ttft_s.p99"])
"""

from collections.abc import Collection, Container, Mapping
from dataclasses import asdict, replace
from typing import Any

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import CostModel
from costmodel.ops.number_formats import SCHEMES
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.errors import EXIT_INFEASIBLE
from simulator.feasible.encoder_rows import with_encoder_mode
from simulator.feasible.engine_support import engines_for
from simulator.feasible.server_setup import Overrides
from simulator.launch import launch_lines
from simulator.model.bind_workload import bind_workload
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.results.interval import Interval, metric_intervals, slo_at
from simulator.results.metric_spellings import STATISTICS
from simulator.results.metrics import is_summarised, summarise
from simulator.results.objective import Slo
from simulator.results.op_breakdown import op_breakdown
from simulator.results.run_work import run_work, work_metrics
from simulator.results.saturation import Offered, Saturation, saturation_of
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.steps.step_sum import IntervalEnd
from simulator.workload.workload import Workload


class InfeasibleError(UserError):
    """No plan that was asked for can start."""

    exit_code = EXIT_INFEASIBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPlan:
    """One simulated plan: what it started with, what users would see, and the run behind it.

    ``run`` is None where a search has let go of it, or where the workload was streamed. ``interval`` holds [low, high]
    of each metric by its path (``ttft_s.p99``); None until ``with_interval`` adds it.
    """

    start: StartedPlan
    metrics: dict[str, Any]
    run: EngineResult | None
    engines: dict[str, str | None]
    launch: tuple[str, ...]  # shell lines that start it on the profile's engine
    interval: Mapping[str, Interval] | None = None
    saturation: Saturation | None = None  # None where it keeps up at both ends, or they are not known
    quantile_error_frac: float | None = None  # of every quantile and of its interval's ends; None where they are exact

    @property
    def plan(self) -> Plan:
        """The plan simulated."""
        return self.start.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed so that it starts."""
        return self.start.notes

    @property
    def approximate(self) -> tuple[str, ...]:
        """Paths of the metrics that are known up to ``quantile_error_frac`` only."""
        if self.quantile_error_frac is None:
            return ()
        quantiles = [statistic for statistic in STATISTICS if statistic != "mean"]
        found = [
            name for name, value in self.metrics.items() if isinstance(value, dict) and set(quantiles) <= set(value)
        ]
        return tuple(f"{name}.{statistic}" for name in found for statistic in quantiles)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame of every request; its columns are those of ``simulator.outputs.requests``.

        Raises ``UserError`` where the requests were not kept.
        """
        from simulator.outputs.requests import request_frame

        return request_frame(self.run, str(self.plan))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `apex simulate --json` prints them."""
        start = self.start
        return {
            "plan": str(start.plan),
            "feasible": True,
            "devices": start.plan.num_devices,
            "metrics": self.metrics,
            **({} if self.interval is None else {"metrics_interval": _lists(self.interval)}),
            **({} if self.saturation is None else {"saturation": self.saturation.to_json()}),
            **(
                {"approximate": {"relative_error_frac": self.quantile_error_frac, "metrics": list(self.approximate)}}
                if self.approximate
                else {}
            ),
            "limits": limits_facts(start),
            "memory": memory_facts(start),
            "engines": self.engines,
            "launch": list(self.launch),
            "notes": list(self.notes),
        }


def limits_facts(start: StartedPlan) -> dict[str, Any]:
    """Return the limits the server of one replica is started with, as plain values."""
    limits = start.limits
    told = ("enforce_eager", "cudagraph_mode", "max_cudagraph_capture_size")
    server = {name: value for name, value in asdict(start.server).items() if name not in told or value}
    if start.server.scheduler_recv_interval == 1:
        del server["scheduler_recv_interval"]
    return {
        **server,
        "num_gpu_blocks": start.memory.num_gpu_blocks,
        "router": start.router,
        **({} if limits.stream_interval == 1 else {"stream_interval": limits.stream_interval}),
        **({} if limits.num_speculative_tokens == 0 else _draft_facts(limits)),
        **_waiting_facts(limits),
    }


def _waiting_facts(limits: EngineLimits) -> dict[str, Any]:
    """Return how many steps prompts are held back, where they are."""
    if limits.batch_wait_iters:
        return {"batch_wait_iters": limits.batch_wait_iters, "batch_wait_tokens": limits.batch_wait_tokens}
    if limits.ranks_wait_iters:
        return {"ranks_wait_iters": limits.ranks_wait_iters, "ranks_batching_iters": limits.ranks_batching_iters}
    return {}


def _draft_facts(limits: EngineLimits) -> dict[str, Any]:
    return {
        "num_speculative_tokens": limits.num_speculative_tokens,
        "speculative_acceptance": limits.speculative_acceptance,
        "draft_step_s": limits.draft_step_s,
    }


def memory_facts(start: StartedPlan) -> dict[str, int | str]:
    """Return what fills the memory of one rank."""
    memory = start.memory
    return {
        "weights_bytes": memory.weights_bytes,
        "activation_bytes": memory.activation_bytes,
        "kv_bytes": memory.kv_bytes,
        "kv_tokens": memory.kv_tokens,
        "kv_dtype": start.kv.dtype,
        "kv_dtype_why": start.kv.why,
    }


def simulate(
    plan: Plan,
    workload: Workload,
    cluster: ClusterSpec,
    costs: CostModel,
    *,
    model: ModelSpec,
    profile: EngineProfile | str = DEFAULT_PROFILE,
    overrides: Overrides | None = None,
    slo: Slo | None = None,
) -> SimulatedPlan:
    """Replay ``workload`` on ``plan``.

    ``costs`` must price ops at the plan's clock. Raises ``UserError`` (exit code 3) with the reason when the plan
    cannot start, and for any input the engine cannot model.
    """
    if costs.clock_mhz != plan.clock_mhz:
        raise UserError(
            f"plan {plan} has clock_mhz {plan.clock_mhz}, the cost model prices clock_mhz {costs.clock_mhz}",
            hint="build the cost model with clock_mhz=plan.clock_mhz",
        )
    model, workload = bind_workload(model, workload)
    served = load_profile(profile) if isinstance(profile, str) else profile
    model = with_encoder_mode(model, served, (overrides or Overrides()).mm_encoder_tp_mode)
    serving = Serving(
        model=model,
        cluster=cluster,
        profile=served,
        costs=lambda _clock: costs,
        overrides=overrides or Overrides(),
    )
    start = serving.start(plan, workload)
    if isinstance(start, Refusal):
        raise InfeasibleError(f"plan {plan} cannot start: {start.reason}")
    return with_interval(serving, replay(serving, start, workload, slo), workload, slo)


def replay(
    serving: Serving, start: StartedPlan, workload: Workload, slo: Slo | None = None, *, log: bool = False
) -> SimulatedPlan:
    """Run the engine on a started plan and measure what it did; ``log`` keeps a row per iteration in ``run.log``."""
    run = _run(start, workload, "middle", log=log)
    metrics = _measure(serving, start, run, slo, end="middle")
    metrics["breakdown_ops"] = op_breakdown(start.compiled, run)
    return measured_plan(serving, start, metrics, run)


def measured_plan(
    serving: Serving, start: StartedPlan, metrics: dict[str, Any], run: EngineResult | None
) -> SimulatedPlan:
    """Put what was measured of a started plan beside how it is started."""
    return SimulatedPlan(
        start=start,
        metrics=metrics,
        run=run,
        engines=engines_for(serving.model, start.plan, serving.cluster.device, serving.profile),
        launch=launch_lines(serving, start),
    )


def with_interval(
    serving: Serving,
    result: SimulatedPlan,
    workload: Workload,
    slo: Slo | None = None,
    *,
    of: Collection[str] | None = None,
) -> SimulatedPlan:
    """Add the metrics' 90 % intervals: two more runs, with all steps at either end of the cost model's interval.

    ``of`` names the metrics that are wanted; others may be left out.
    """
    start = result.start
    ends: tuple[IntervalEnd, IntervalEnd] = ("low", "high")
    runs = [_measure(serving, start, _run(start, workload, end), slo, end=end, of=of) for end in ends]
    frac = start.compiled.spread.first_token_frac
    every = [result.metrics, *runs]
    interval = metric_intervals(every, first_token_frac=frac)
    frontends_s = [start.limits_at(end).frontend_s for end in ("middle", *ends)]
    verdict = saturation_of(every, interval, Offered.of(workload), frontends_s)
    return replace(result, interval=interval, saturation=verdict)


def client_metrics(start: StartedPlan, workload: Workload) -> dict[str, Any]:
    """Return what a client would measure and nothing else."""
    return summarise(_run(start, workload, "middle"), Slo().per_request).to_json()


def slowed(
    serving: Serving,
    start: StartedPlan,
    workload: Workload,
    slo: Slo | None = None,
    *,
    only: Container[str] | None = None,
    of: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return the metrics with some sources of error alone at the end where steps take longer and draw more.

    ``of`` names the metrics that are wanted; others may be left out.
    """
    return _measure(serving, start, _run(start, workload, "high", only=only), slo, end="high", only=only, of=of)


def _run(
    start: StartedPlan,
    workload: Workload,
    end: IntervalEnd,
    *,
    only: Container[str] | None = None,
    log: bool = False,
) -> EngineResult:
    tables, limits, plan = start.compiled.tables(end, only), start.limits_at(end, only), start.plan
    return run_replicas(
        tables, limits, workload, dp=plan.dp, attention_dp=plan.attention_dp, router=start.router, log=log
    )


def _measure(
    serving: Serving,
    start: StartedPlan,
    run: EngineResult,
    slo: Slo | None,
    *,
    end: IntervalEnd,
    only: Container[str] | None = None,
    of: Collection[str] | None = None,
) -> dict[str, Any]:
    limits, frac = (slo or Slo()).per_request, start.compiled.spread.first_token_frac
    metrics = summarise(run, limits if only is not None else slo_at(end, limits, frac)).to_json()
    if of is not None and all(map(is_summarised, of)):
        return metrics
    return metrics | work_figures(
        serving, start, run, int(run.output_tokens[run.is_finished].sum()), end=end, only=only
    )


def work_figures(
    serving: Serving,
    start: StartedPlan,
    run: EngineResult,
    output_tokens: int,
    *,
    end: IntervalEnd,
    only: Container[str] | None = None,
) -> dict[str, float]:
    """Return utilisation, energy and price of a run at one end, from its sums of the replicas."""
    work = run_work(start.compiled, run, start.plan, serving.cluster, end=end, only=only)
    scheme = start.plan.weight_dtype or serving.model.quantisation or serving.model.dtype
    return work_metrics(work, start.plan, serving.cluster, output_tokens, SCHEMES[scheme].compute)


def _lists(intervals: Mapping[str, Interval]) -> dict[str, list[float]]:
    return {path: [low, high] for path, (low, high) in intervals.items()}
