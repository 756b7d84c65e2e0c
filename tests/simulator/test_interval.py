"""Intervals of the metrics: what they enclose, how they are ordered, and that sure prices give points."""

import json
import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.load import load_cluster
from costmodel.cost_model import Prediction
from costmodel.ops.op_types import Collective, Gemm, Op
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.constant import Constant
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.engine_profiles.spread import Spread
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.results.interval import metric_intervals
from simulator.results.objective import metric_paths, parse_slo, read_metric
from simulator.simulate import SimulatedPlan, simulate
from simulator.steps.op_curves import OpCurves
from simulator.steps.step_ends import at_end
from simulator.steps.step_sum import StepSum
from simulator.workload.parse import parse_workload


class _Widened(AnalyticCosts):
    """Analytic prices whose intervals are ``factor`` times the latency to either side."""

    def __init__(self, cluster: ClusterSpec, factor: float) -> None:
        super().__init__(cluster)
        self.factor = factor

    def predict(self, op: Op) -> Prediction:
        found = super().predict(op)
        return replace(found, low_s=found.latency_s / (1 + self.factor), high_s=found.latency_s * (1 + self.factor))


def _sure() -> EngineProfile:
    """Take the errors of its constants (as plain floats have none) and the spread of its servers from a profile."""
    profile = load_profile("vllm-0.33")
    tables = {name: getattr(profile, name) for name in ("host", "memory", "sustained_load")}
    exact = {
        name: table.model_copy(
            update={key: float(value) for key, value in vars(table).items() if isinstance(value, float)}
        )
        for name, table in tables.items()
    }
    return profile.model_copy(update={**exact, "spread": None})


def _simulated(
    factor: float,
    workload: str = "chat-synthetic",
    slo: str = "ttft_s<=0.1",
    profile: EngineProfile | None = None,
) -> SimulatedPlan:
    cluster = load_cluster("h100-sxm-8")
    return simulate(
        parse_plan("dp2-tp4"),
        parse_workload(workload, limit=300),
        cluster,
        _Widened(cluster, factor),
        model=load_model("llama-3.1-70b"),
        slo=parse_slo([slo]),
        profile=profile or _sure(),
    )


def test_interval_holds_the_estimate() -> None:
    """Every metric lies inside its interval, every interval is ordered, and no known metric lacks one."""
    result = _simulated(0.3)
    assert result.interval is not None
    known = {path for path in metric_paths() if read_metric(result.metrics, path) is not None}
    assert set(result.interval) == known
    for path, (low, high) in result.interval.items():
        value = read_metric(result.metrics, path)
        assert value is not None
        assert low <= value <= high, path


def test_sure_costs_give_points() -> None:
    """Prices without an interval give metrics without one; joules keep what is not known of the device's power."""
    result = _simulated(0.0)
    assert result.interval is not None
    for path, (low, high) in result.interval.items():
        if path.startswith("energy_j"):
            value = read_metric(result.metrics, path)
            assert value is not None
            assert low < 0.99 * value < 1.01 * value < high
        else:
            assert low == pytest.approx(high, rel=1e-9), path


def test_wider_prices_give_wider_latencies() -> None:
    """The interval of a latency grows with the intervals of the ops, and never by more than theirs in a closed loop."""
    workload = "closed:isl=256,osl=64,concurrency=8,prompts_per_slot=8,warmup_per_slot=0"
    widths = []
    for factor in (0.1, 0.2, 0.4):
        result = _simulated(factor, workload)
        assert result.interval is not None
        low, high = result.interval["tpot_s.mean"]
        value = result.metrics["tpot_s"]["mean"]
        assert value / (1 + factor) <= low < value < high <= value * (1 + factor)
        widths.append((high - low) / value)
    assert widths == sorted(widths)


def test_metrics_that_fall_with_latency_are_ordered() -> None:
    """Throughput in a closed loop is least where steps are slowest, so its ends change places."""
    result = _simulated(0.3, "closed:isl=256,osl=64,concurrency=8,prompts_per_slot=8,warmup_per_slot=0")
    assert result.interval is not None
    low, high = result.interval["throughput_tokens_per_s"]
    assert low < result.metrics["throughput_tokens_per_s"] < high


def test_unknown_metric_has_no_interval() -> None:
    """A metric that one of the runs could not tell is left out, not guessed."""
    known = {"tpot_s": {"mean": 1.0}, "energy_j": 5.0}
    assert metric_intervals([known, known, {"tpot_s": {"mean": 0.5}}]) == {"tpot_s.mean": (0.5, 1.0)}


def test_errors_add_up_within_an_op_and_in_quadrature_across_ops() -> None:
    """Two layers of one op double its half-width; two ops with half-widths a and b have sqrt(a^2 + b^2) together."""
    cluster = load_cluster("h100-sxm-8")
    curves = OpCurves(_Widened(cluster, 0.5))
    gemm = curves.price(Gemm(m=1024, n=8192, k=8192))
    reduce = curves.price(Collective(kind="all_reduce", message_bytes=1 << 24, ranks=8))
    one, two, both = StepSum(1), StepSum(1), StepSum(1)
    one.add("gemm", gemm)
    two.add("gemm", gemm, 2)
    both.add("gemm", gemm)
    both.add("all_reduce", reduce)

    def width(total: StepSum) -> float:
        return float((at_end("high", total) - total.latency_s).item())

    assert width(two) == pytest.approx(2 * width(one))
    other = float((reduce.high_s - reduce.latency_s).item())
    assert width(both) == pytest.approx((width(one) ** 2 + other**2) ** 0.5)


def test_json_names_intervals_by_path() -> None:
    """``metrics_interval`` maps each metric's path to [low, high], as plain JSON numbers."""
    plain = json.loads(json.dumps(_simulated(0.3).to_json()))
    low, high = plain["metrics_interval"]["ttft_s.p99"]
    assert low <= plain["metrics"]["ttft_s"]["p99"] <= high


RunApex = Callable[..., "subprocess.CompletedProcess[str]"]
_SEARCH = [
    *("search", "--model", "llama-3.1-8b", "--cluster", "h100-sxm-2", "--trace", "chat-synthetic", "--limit", "50"),
    *("--plan", "dp2", "--plan", "tp2", "--top", "1"),
]


def test_search_has_intervals_for_the_plans_it_shows(run_apex: RunApex) -> None:
    """The best --top plans carry intervals, the others do not; with --no-interval none does."""
    shown = json.loads(run_apex(*_SEARCH, "--json").stdout)["plans"]
    assert ["metrics_interval" in plan for plan in shown] == [True, False]
    low, high = shown[0]["metrics_interval"]["e2e_s.mean"]
    assert low <= shown[0]["metrics"]["e2e_s"]["mean"] <= high
    plain = json.loads(run_apex(*_SEARCH, "--json", "--no-interval").stdout)["plans"]
    assert not any("metrics_interval" in plan for plan in plain)
    assert [plan["metrics"] for plan in plain] == [plan["metrics"] for plan in shown]


def test_search_table_shows_the_objective_with_its_interval(run_apex: RunApex) -> None:
    """The table has a column with both ends of the objective's interval, for plans that break a limit too."""
    done = run_apex(*_SEARCH, "--objective", "throughput_tokens_per_s", "--slo", "e2e_s.mean<=0.001")
    assert done.returncode == 3, done.stderr
    assert "by throughput_tokens_per_s" in done.stdout
    assert "90 % interval" in done.stdout
    assert re.search(r"\d to \d", done.stdout)
    assert "90 % interval" not in run_apex(*_SEARCH, "--no-interval").stdout


_CLOSED = "closed:isl=256,osl=64,concurrency=8,prompts_per_slot=8,warmup_per_slot=0"


def _half_widths(profile: EngineProfile) -> dict[str, float]:
    """Return half the width of each latency's interval under sure prices, where no request meets another."""
    result = _simulated(0.0, _CLOSED.replace("concurrency=8", "concurrency=1"), profile=profile)
    assert result.interval is not None
    paths = ("ttft_s.mean", "tpot_s.mean", "e2e_s.mean")
    return {path: (result.interval[path][1] - result.interval[path][0]) / 2 for path in paths}


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("host", "step_s"),
        ("host", "serial_sequence_s"),
        ("host", "frontend_s"),
        ("host", "frontend_token_s"),
        ("host", "launch_s"),
        ("sustained_load", "slowdown_frac"),
        ("memory", "runtime_mib"),
    ],
)
def test_a_constant_that_may_be_off_more_never_gives_a_narrower_interval(table: str, key: str) -> None:
    """The interval of every latency grows with the error of a constant, or stays where the constant plays no part."""
    sure = _sure()
    last = _half_widths(sure)
    for share in (0.3, 0.9):
        section = getattr(sure, table)
        changed = section.model_copy(update={key: Constant(getattr(section, key), share * getattr(section, key))})
        found = _half_widths(sure.model_copy(update={table: changed}))
        for path, width in found.items():
            assert width >= last[path] * (1 - 1e-9) - 1e-15, (path, share)
        last = found


def test_the_spread_of_steps_is_that_of_tpot_and_the_first_token_has_its_own() -> None:
    """Beside sure prices, TPOT has the spread of steps; TTFT and E2E have that and the first token's."""
    sure = _sure()
    steps = sure.model_copy(update={"spread": Spread(step_frac=0.2, source="a test")})
    both = sure.model_copy(update={"spread": Spread(step_frac=0.2, first_token_frac=0.5, source="a test")})
    one, two = (_simulated(0.0, _CLOSED, profile=profile) for profile in (steps, both))
    assert one.interval is not None
    assert two.interval is not None
    tpot_s = one.metrics["tpot_s"]["mean"]
    assert one.interval["tpot_s.mean"] == pytest.approx((tpot_s / 1.2, tpot_s * 1.2), rel=0.02)
    assert two.interval["tpot_s.mean"] == pytest.approx(one.interval["tpot_s.mean"], rel=1e-9)
    for path in ("ttft_s.mean", "ttft_s.p99", "e2e_s.mean"):
        assert two.interval[path][0] < one.interval[path][0]
        assert two.interval[path][1] > one.interval[path][1]
    ttft_s = one.metrics["ttft_s"]["mean"]
    seen, whole = one.interval["ttft_s.mean"][1] / ttft_s, two.interval["ttft_s.mean"][1] / ttft_s
    assert math.log(whole) == pytest.approx(math.hypot(math.log(seen), math.log(1.5)))


def test_goodput_counts_the_first_token_at_its_ends() -> None:
    """A limit just above every TTFT is kept by all at the best estimate, and broken where the first token is late."""
    late = _sure().model_copy(update={"spread": Spread(first_token_frac=1.0, source="a test")})
    slowest_s = _simulated(0.0, _CLOSED).metrics["ttft_s"]["p99"]
    found = _simulated(0.0, _CLOSED, slo=f"ttft_s<={1.2 * slowest_s:g}", profile=late)
    assert found.interval is not None
    assert found.metrics["slo_attainment_frac"] == 1.0
    assert found.interval["slo_attainment_frac"][0] < 1.0
