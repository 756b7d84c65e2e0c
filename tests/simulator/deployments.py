"""What tests of plans start from: a model on a cluster behind an engine, priced from specifications alone."""

from typing import Any

from cluster_specs.load import load_cluster
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.feasible.server_setup import Overrides
from simulator.launch import decode_command, pool_launch_lines, prefill_command
from simulator.model.load_model import load_model
from simulator.model.spec import ModelSpec
from simulator.plan.plan import parse_plan
from simulator.pools.disaggregation import PoolStarts
from simulator.serving import Serving, StartedPlan
from simulator.workload.workload import Workload

# What `plan_memory` is asked with where a test is not about it.
LIMITS: dict[str, Any] = {
    "gpu_memory_utilization": 0.9,
    "block_size": 16,
    "max_num_batched_tokens": 8192,
    "max_num_seqs": 256,
    "max_model_len": 4096,
}


def serving_of(
    model: str | ModelSpec = "llama-3.1-8b",
    cluster: str = "h100-sxm-8",
    engine: str | EngineProfile = "vllm-0.33",
    **overrides: Any,
) -> Serving:
    """Serve a bundled model behind a bundled engine, or the test's own, with its defaults but for the overrides."""
    spec = load_cluster(cluster)
    return Serving(
        model=load_model(model) if isinstance(model, str) else model,
        cluster=spec,
        profile=load_profile(engine) if isinstance(engine, str) else engine,
        costs=lambda clock_mhz: AnalyticCosts(spec, clock_mhz),
        overrides=Overrides(**overrides),
    )


def start_of(serving: Serving, plan: str, workload: Workload) -> StartedPlan:
    """StartedPlan a plan that can start."""
    start = serving.start(parse_plan(plan), workload)
    assert isinstance(start, StartedPlan), start
    return start


def launch_of_pools(serving: Serving, starts: PoolStarts) -> tuple[str, ...]:
    """Return the commands of two started pools."""
    prefill, decode = prefill_command(serving, starts.prefill), decode_command(serving, starts.decode)
    return pool_launch_lines(serving, prefill, decode)
