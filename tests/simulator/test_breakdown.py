"""The per-op breakdown adds up to what the engine counted, and names the ops a plan really runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.load import load_cluster
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine.result import EngineResult
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.results.mean_step import MeanSteps, Place, StepCounts, Tabled
from simulator.results.op_breakdown import op_breakdown
from simulator.simulate import SimulatedPlan, simulate
from simulator.workload.parse import parse_workload

_PLANS = {
    "dense": ("llama-3.1-8b", "dp2-tp4", "vllm-0.33"),
    "latent attention and experts": ("deepseek-v3", "tp8", "vllm-0.33"),
    "sliding window": ("gpt-oss-20b", "tp2", "vllm-0.11"),
    "pipeline": ("llama-3.1-70b", "pp4-tp2", "vllm-0.33"),
}


def _simulated(model: str, plan: str, profile: str, workload: str = "chat-synthetic") -> SimulatedPlan:
    cluster = load_cluster("b200-8")
    return simulate(
        parse_plan(plan),
        parse_workload(workload, limit=200),
        cluster,
        AnalyticCosts(cluster),
        model=load_model(model),
        profile=profile,
    )


@pytest.fixture(scope="module", params=list(_PLANS))
def result(request: pytest.FixtureRequest) -> SimulatedPlan:
    """One simulated plan of each kind."""
    return _simulated(*_PLANS[request.param])


def test_shares_sum_to_the_whole(result: SimulatedPlan) -> None:
    """All shares, idle time included, add up to the span the replicas were in use."""
    shares = result.metrics["breakdown_ops"]
    # Each step of a stage is rounded up to whole picoseconds.
    assert sum(shares.values()) == pytest.approx(1.0, rel=1e-8)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


@pytest.mark.parametrize("table", ["token_ps", "attention_ps", "sample_ps"])
def test_each_table_keeps_its_total(result: SimulatedPlan, table: str) -> None:
    """With the time of all other tables set to zero, the ops' shares add up to the engine's own sum of this one."""
    names = ("token_ps", "attention_ps", "sample_ps", "host_ps", "bubble_ps")
    totals = result.run.replicas
    others = {name: 0 * getattr(totals, name) for name in names if name != table}
    alone: EngineResult = replace(
        result.run, replicas=replace(totals, **others, busy_ps=totals.stages * totals.last_end_ps)
    )
    spent = sum(op_breakdown(result.start.compiled, alone).values()) * totals.stages * float(totals.last_end_ps.sum())
    assert spent == pytest.approx(float(getattr(totals, table).sum()), rel=1e-12)


def test_mean_step_explains_the_engine(result: SimulatedPlan) -> None:
    """Before scaling, the ops at the mean steps come close to the engine's attention and sampling time."""
    totals = result.run.replicas
    counts = StepCounts.of_all(totals)
    compiled = result.start.compiled
    steps = MeanSteps(compiled.knots, counts)
    sums = [steps.totals(Tabled.of(stage, lambda total: total.latency_s)) for stage in compiled.stages]
    attention_s = sum(total.decode + max(total.prefill, total.reads) + total.context for total in sums)
    sample_s = sum(total.samples for total in sums) + counts.rows * compiled.profile.host.serial_sequence_s
    assert attention_s == pytest.approx(float(totals.attention_ps.sum()) * 1e-12, rel=0.15)
    assert sample_s == pytest.approx(float(totals.sample_ps.sum()) * 1e-12, rel=0.15)


def test_ops_of_the_plan_are_named() -> None:
    """Experts show up where the model has some, all-reduce where a tensor group has more than one rank."""
    experts = _simulated("gpt-oss-20b", "tp2", "vllm-0.33").metrics["breakdown_ops"]
    alone = _simulated("llama-3.1-8b", "dp2", "vllm-0.33").metrics["breakdown_ops"]
    assert {"moe_frac", "topk_frac", "all_reduce_frac", "attention_frac", "host_frac"} <= set(experts)
    assert not {"moe_frac", "all_reduce_frac", "all_gather_frac", "bubble_frac"} & set(alone)


def test_equal_steps_are_split_exactly() -> None:
    """In steps that are all alike the split is the cost model's own: GEMM over norm as in one captured step."""
    result = _simulated(
        "llama-3.1-8b", "tp1", "vllm-0.33", "closed:isl=16,osl=512,concurrency=64,prompts_per_slot=1,warmup_per_slot=0"
    )
    shares = result.metrics["breakdown_ops"]
    (stage,) = result.start.compiled.stages
    at = list(result.start.compiled.knots.tokens).index(64)
    norm_s, rope_s = (float(stage.tokens.by_label[name][at]) for name in ("add_rmsnorm", "rope"))
    assert shares["add_rmsnorm_frac"] / shares["rope_frac"] == pytest.approx(norm_s / rope_s, rel=0.03)


def test_devices_are_busy_for_no_longer_than_they_are_there(result: SimulatedPlan) -> None:
    """Busy device time is the stages' own, however many there are: what is neither bubble nor idle."""
    shares = result.metrics["breakdown_ops"]
    waiting = shares.get("bubble_frac", 0.0) + shares["idle_frac"]
    assert result.metrics["utilisation_frac"] == pytest.approx(1.0 - waiting, rel=1e-9)
    assert result.metrics["device_busy_frac"] <= result.metrics["utilisation_frac"] + 1e-12


@given(
    st.lists(st.integers(0, 10**7), min_size=2, max_size=40, unique=True).map(sorted),
    st.floats(min_value=0, max_value=2e7),
    st.data(),
)
def test_places_interpolate_as_numpy_does(knots: list[int], point: float, data: st.DataObject) -> None:
    """Between knots, on them and outside, a curve has the value of ``numpy.interp`` to the bit."""
    chosen = data.draw(st.sampled_from([point, *map(float, knots)]))
    numbers = st.one_of(st.floats(min_value=0, max_value=1e9), st.just(math.nan))
    values = np.array(data.draw(st.lists(numbers, min_size=len(knots), max_size=len(knots))))
    found = Place.of(np.array(knots), chosen).value(values)
    expected = float(np.interp(chosen, knots, values)) if chosen > 0 else 0.0
    assert found == expected or (math.isnan(found) and math.isnan(expected))
    assert Place.of(np.array(knots), chosen).value(None) == 0.0


def test_launches_waited_for_are_host_time() -> None:
    """A prompt beyond the graphs, too short for eight devices, waits for its launches: host time in the breakdown."""
    short = "closed:isl=2000,osl=2,concurrency=1,prompts_per_slot=20,warmup_per_slot=0"
    long = "closed:isl=8000,osl=2,concurrency=1,prompts_per_slot=20,warmup_per_slot=0"
    shares = [_simulated("llama-3.1-8b", "tp8", "vllm-0.33", load).metrics["breakdown_ops"] for load in (short, long)]
    assert shares[0]["host_frac"] > 0.1 > shares[1]["host_frac"]
