"""FLOPs, bytes, joules and dollars of a run follow from what was served."""

import pytest

from cluster_specs.load import load_cluster
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.simulate import SimulatedPlan, simulate
from simulator.workload.parse import parse_workload

_WORKLOAD = parse_workload("synthetic:isl=512,osl=128,rate=4,n=200,seed=3")


def _run(
    plan: str, cluster: str = "h100-sxm-8", model: str = "llama-3.1-8b", usd: float | None = None
) -> SimulatedPlan:
    spec = load_cluster(cluster).model_copy(update={"usd_per_device_hour": usd})
    parsed = parse_plan(plan)
    return simulate(parsed, _WORKLOAD, spec, AnalyticCosts(spec, parsed.clock_mhz), model=load_model(model))


@pytest.mark.parametrize("plan", ["tp1", "tp4", "pp2-tp2", "dp4"])
def test_flops_are_those_of_the_model(plan: str) -> None:
    """Every token costs two FLOP per parameter it meets, whatever the plan: MFU times peak times time adds up to it."""
    result = _run(plan)
    model = load_model("llama-3.1-8b")
    tokens = int(_WORKLOAD.prompt_tokens.sum() + _WORKLOAD.output_tokens.sum() - len(_WORKLOAD))
    head = model.vocab_size * model.hidden_size
    matrices = 2.0 * (model.parameters() - 2 * head) * tokens + 2.0 * head * int(_WORKLOAD.output_tokens.sum())
    device = load_cluster("h100-sxm-8").device
    device_s = float(result.run.replicas.last_end_ps.max()) * 1e-12 * parse_plan(plan).num_devices
    done = result.metrics["mfu_frac"] * device_s * device.peak_flop_per_s["bf16"]
    assert matrices < done < 1.05 * matrices  # attention adds a few percent at these lengths


def test_energy_lies_between_idle_and_full_power() -> None:
    """A device draws at least its idle power and at most its TDP, averaged over any run."""
    device = load_cluster("h100-sxm-8").device
    for plan in ("tp1", "tp8", "dp2-tp4"):
        mean_w = _run(plan).metrics["mean_power_w"]
        assert device.idle_w <= mean_w <= device.tdp_w


def test_a_step_that_waits_for_its_launches_draws_awake_power() -> None:
    """Without graphs a step lasts longer than its ops, and the device stays awake for all of it, never merely idle."""
    spec = load_cluster("h100-sxm-8")
    costs, workload = AnalyticCosts(spec), parse_workload("closed:isl=64,osl=64,concurrency=1,prompts_per_slot=4")
    eager, captured = (
        simulate(
            parse_plan("tp1"),
            workload,
            spec,
            costs,
            model=load_model("llama-3.2-1b"),
            overrides=Overrides(enforce_eager=is_eager),
        )
        for is_eager in (True, False)
    )
    assert eager.run is not None
    assert captured.run is not None
    eager_s, captured_s = (float(run.replicas.busy_ps.sum()) * 1e-12 for run in (eager.run, captured.run))
    assert eager_s > 2 * captured_s
    # The work is the same: what more it takes is the awake power of a longer wait.
    added_j = eager.metrics["energy_j"] - captured.metrics["energy_j"]
    assert added_j == pytest.approx(costs.power.awake_w * (eager_s - captured_s), rel=0.01)


def test_a_lower_clock_takes_longer_and_less_power() -> None:
    """Half the clock: prefill slows down, mean power falls."""
    fast, slow = _run("tp1").metrics, _run("tp1-f990").metrics
    assert slow["ttft_s"]["mean"] > fast["ttft_s"]["mean"]
    assert slow["mean_power_w"] < fast["mean_power_w"]


def test_price_is_device_hours() -> None:
    """USD per million tokens is the price of all devices over the run; without a price it is not made up."""
    result = _run("dp2-tp2", usd=3.0)
    hours = float(result.run.replicas.last_end_ps.max()) * 1e-12 / 3600
    expected = 3.0 * 4 * hours * 1e6 / int(_WORKLOAD.output_tokens.sum())
    assert result.metrics["usd_per_million_output_tokens"] == pytest.approx(expected, rel=1e-9)
    assert "usd_per_million_output_tokens" not in _run("tp1").metrics
