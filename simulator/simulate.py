"""From a plan and a workload to what a user would see: start the plan, replay the workload, measure.

from cluster_specs.load import load_cluster
from costmodel.analytic import AnalyticCosts
from simulator.model.bundled import load_model
from simulator.plan import parse_plan
from simulator.simulate import simulate
from simulator.workload.parse import parse_workload

cluster = load_cluster("h100-sxm-8")
workload = parse_workload("chat-synthetic")
result = simulate(
    parse_plan("dp2-tp4"), workload, cluster, AnalyticCosts(cluster), model=load_model("llama-3.1-70b")
)
print(result.metrics["ttft_s"]["p99"])
"""

from dataclasses import dataclass
from typing import Any

from cluster_specs.cluster import ClusterSpec
from costmodel.ops import SCHEMES
from costmodel.prediction import CostModel
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profile import EngineProfile, load_profile
from simulator.engine_support import engines_for
from simulator.errors import EXIT_INFEASIBLE, InputError
from simulator.metrics import summarise
from simulator.model.spec import ModelSpec
from simulator.objective import Slo
from simulator.plan import Plan
from simulator.serving import Overrides, Refusal, Serving, Start
from simulator.work import run_work, work_metrics
from simulator.workload.workload import Workload

DEFAULT_PROFILE = "vllm-0.33"


class InfeasibleError(InputError):
    """No plan that was asked for can start."""

    exit_code = EXIT_INFEASIBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One simulated plan: what it started with, what users would see, and the run behind it."""

    start: Start
    metrics: dict[str, Any]
    run: EngineResult
    engines: dict[str, str | None]

    @property
    def plan(self) -> Plan:
        """The plan simulated."""
        return self.start.plan

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `apex simulate --json` prints them."""
        start, limits, memory = self.start, self.start.limits, self.start.memory
        return {
            "plan": str(start.plan),
            "feasible": True,
            "devices": start.plan.num_devices,
            "metrics": self.metrics,
            "limits": {
                "max_num_seqs": limits.max_num_seqs,
                "max_num_batched_tokens": limits.max_num_batched_tokens,
                "max_model_len": limits.max_model_len,
                "num_gpu_blocks": memory.num_gpu_blocks,
                "block_size": limits.block_size,
                "router": start.router,
            },
            "memory": {
                "weights_bytes": memory.weights_bytes,
                "activation_bytes": memory.activation_bytes,
                "kv_bytes": memory.kv_bytes,
                "kv_tokens": memory.kv_tokens,
            },
            "engines": self.engines,
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
) -> Result:
    """Replay ``workload`` on ``plan``.

    ``costs`` must price ops at the plan's clock. Raises ``InputError`` (exit code 3) with the reason when the plan
    cannot start, and for any input the engine cannot model.
    """
    if costs.clock_mhz != plan.clock_mhz:
        raise InputError(
            f"plan {plan} has clock_mhz {plan.clock_mhz}, the cost model prices clock_mhz {costs.clock_mhz}",
            hint="build the cost model with clock_mhz=plan.clock_mhz",
        )
    serving = Serving(
        model=model,
        cluster=cluster,
        profile=load_profile(profile) if isinstance(profile, str) else profile,
        costs=lambda _clock: costs,
        overrides=overrides or Overrides(),
    )
    start = serving.start(plan, workload)
    if isinstance(start, Refusal):
        raise InfeasibleError(f"plan {plan} cannot start: {start.reason}")
    return replay(serving, start, workload, slo)


def replay(serving: Serving, start: Start, workload: Workload, slo: Slo | None = None) -> Result:
    """Run the engine on a started plan and measure what it did."""
    run = run_replicas(start.compiled.tables(), start.limits, workload, dp=start.plan.dp, router=start.router)
    summary = summarise(run, (slo or Slo()).per_request)
    metrics = summary.to_json()
    work = run_work(start.compiled, run, start.plan, serving.cluster)
    output_tokens = int(run.output_tokens[run.is_finished].sum())
    scheme = start.plan.weight_dtype or serving.model.quantisation or serving.model.dtype
    compute = SCHEMES[scheme].compute
    metrics |= work_metrics(work, start.plan, serving.cluster, output_tokens, compute)
    return Result(start=start, metrics=metrics, run=run, engines=engines_for(serving.model, start.plan))
