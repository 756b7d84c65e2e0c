"""A random case: model, cluster, plan, engine, workload and limits, all drawn from one seed."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np

from cluster_specs.cluster import ClusterSpec
from cluster_specs.load import load_cluster
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.plan.plan import Plan, parse_plan
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.simulate import SimulatedPlan, replay
from simulator.workload.workload import ClosedLoop, OpenLoop, PrefixBlocks, Workload

MODELS: Final = ("llama-3.2-1b", "llama-3.1-8b", "mistral-nemo-12b", "gemma-3-12b", "mixtral-8x7b", "gpt-oss-20b")
CLUSTERS: Final = ("h100-sxm-4", "h200-sxm-4", "a100-sxm-80gb-4", "a100-sxm-40gb-4", "l40s-4", "b200-4")
PLANS: Final = ("tp1", "tp2", "tp4", "dp2", "dp4", "dp2-tp2", "pp2", "pp2-tp2", "pp4", "dp2-pp2")
PROFILES: Final = ("vllm-0.33", "vllm-0.18", "vllm-0.6", "sglang-0.5", "orca")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What of a cluster is changed: factors of its stated rates, and of its memory."""

    device: float = 1.0  # arithmetic and memory bandwidth
    link: float = 1.0
    memory: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One plan, the server it runs on, and its workload."""

    seed: int
    model: str
    cluster: str
    plan: Plan
    profile: str
    overrides: Overrides
    workload: Workload
    hardware: Hardware = Hardware()

    @property
    def serving(self) -> Serving:
        """Model, cluster and engine, with the case's settings."""
        return replace(_serving(self.model, self.cluster, self.profile, self.hardware), overrides=self.overrides)

    def start(self) -> StartedPlan | Refusal:
        """StartedPlan the plan."""
        return self.serving.start(self.plan, self.workload)

    def run(self, *, log: bool = False) -> EngineResult | Refusal:
        """StartedPlan the plan and run the engine; ``log`` keeps a row per step."""
        start = self.start()
        if isinstance(start, Refusal):
            return start
        return run_replicas(
            start.compiled.tables(), start.limits, self.workload, dp=self.plan.dp, router=start.router, log=log
        )

    def replay(self) -> SimulatedPlan | Refusal:
        """StartedPlan the plan, replay the workload and measure everything."""
        serving = self.serving
        start = serving.start(self.plan, self.workload)
        return start if isinstance(start, Refusal) else replay(serving, start, self.workload)

    def __str__(self) -> str:
        """Say what it takes to see the case again."""
        stated = {name: value for name in Overrides.__slots__ if (value := getattr(self.overrides, name)) is not None}
        client = self.workload.client
        loop = f"closed at {client.concurrency}" if isinstance(client, ClosedLoop) else "open"
        return (
            f"seed {self.seed}: {self.model} {self.plan} on {self.cluster}, {self.profile}, {stated}, "
            f"{len(self.workload)} requests, {loop}"
        )


_model = cache(load_model)


@cache
def _serving(model: str, cluster: str, profile: str, hardware: Hardware) -> Serving:
    """Return the server of these; everything with the same prices shares them."""
    spec = changed(load_cluster(cluster), hardware)
    return Serving(
        model=_model(model),
        cluster=spec,
        profile=load_profile(profile),
        costs=lambda clock_mhz: AnalyticCosts(spec, clock_mhz),
        allow_unsupported=True,
    )


def changed(cluster: ClusterSpec, hardware: Hardware) -> ClusterSpec:
    """Return the cluster with its rates and memory multiplied."""
    device = cluster.device
    device = device.model_copy(
        update={
            "peak_flop_per_s": {dtype: rate * hardware.device for dtype, rate in device.peak_flop_per_s.items()},
            "memory_bytes_per_s": device.memory_bytes_per_s * hardware.device,
            "memory_bytes": int(device.memory_bytes * hardware.memory),
        }
    )
    levels = tuple(
        link.model_copy(update={"bandwidth_bytes_per_s": link.bandwidth_bytes_per_s * hardware.link})
        for link in cluster.levels
    )
    return cluster.model_copy(update={"device": device, "levels": levels})


def draw_case(seed: int) -> Case:
    """Draw a case; arrivals lie on whole 2^-20 s, which float64 holds at any hour of a year."""
    rng = np.random.default_rng(seed)

    def one_of(values: tuple[Any, ...]) -> Any:
        return values[int(rng.integers(len(values)))]

    overrides = Overrides(
        max_num_seqs=one_of((None, 2, 8, 32)),
        max_num_batched_tokens=one_of((None, 512, 2048)),
        num_gpu_blocks=one_of((None, None, 200, 600)),
        enable_prefix_caching=bool(rng.integers(2)),
        async_scheduling=one_of((None, True, False)),
    )
    profile = one_of(PROFILES)
    if profile in {"vllm-0.6", "orca"}:
        overrides = replace(overrides, enable_prefix_caching=False)
    plan = parse_plan(one_of(PLANS))
    workload = _draw_workload(rng)
    if profile.startswith("vllm-0.33") and plan.pp == 1 and rng.random() < 0.2:
        overrides = replace(overrides, speculative_tokens=2, speculative_acceptance=0.6)
    return Case(
        seed=seed,
        model=one_of(MODELS),
        cluster=one_of(CLUSTERS),
        plan=plan,
        profile=profile,
        overrides=overrides,
        workload=workload,
    )


def _draw_workload(rng: np.random.Generator) -> Workload:
    n = int(rng.choice([1, 3, 12, 40, 120]))
    rate_per_s = float(rng.choice([0.2, 2.0, 20.0, 200.0]))
    gaps = np.round(rng.exponential(1 / rate_per_s, n) * 2**20) / 2**20
    prompt = np.clip(rng.exponential(rng.choice([100, 800]), n), 1, 6000).astype(np.int64)
    output = np.clip(rng.exponential(rng.choice([20, 150]), n), 0, 1000).astype(np.int64)
    client = ClosedLoop(concurrency=int(rng.integers(1, 40))) if rng.random() < 0.25 else OpenLoop()
    workload = Workload(
        name="drawn",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=prompt,
        output_tokens=output,
        client=client,
    )
    kind = rng.random()
    if kind < 0.2:
        # Prompts of four families share their first blocks.
        blocks = prompt // 16
        ids = [np.arange(count) + 1000 * (i % 4) for i, count in enumerate(blocks)]
        offsets = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
        workload = replace(
            workload,
            prefix=PrefixBlocks(block_tokens=16, offsets=offsets, ids=np.concatenate(ids).astype(np.int64)),
        )
    elif kind < 0.4 and isinstance(client, OpenLoop):
        after = np.where(np.arange(n) % 3 > 0, np.arange(n) - 1, -1)
        workload = replace(workload, after=after, think_s=np.round(rng.exponential(0.5, n) * 2**20) / 2**20)
    return workload
