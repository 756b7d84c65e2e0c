"""A step under a power cap runs at the clock where the power of the whole step meets the cap."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from costmodel.power_model import PowerModel
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.power_caps import check_cap, least_cap_w
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.simulate import SimulatedPlan, replay, with_interval
from simulator.steps.power_cap import Draw, PowerCap
from simulator.workload.parse import parse_workload

# 100 W however it runs, and a voltage that is linear in the clock above 550 MHz.
_PLAIN = PowerModel(
    idle_w=100.0,
    awake_w=100.0,
    tdp_w=500.0,
    j_per_flop={"bf16": 1e-12},
    j_per_byte=1e-10,
    j_per_link_byte=1e-10,
    max_mhz=1000.0,
    source="made up",
)
_WORKLOAD = parse_workload("closed:isl=512,osl=64,concurrency=4,prompts_per_slot=2,warmup_per_slot=0")


def _draw(clocked_s: float, clocked_j: float, rest_j: float = 0.0) -> Draw:
    """One second of work that draws 100 W and so many joules more."""
    joules = _PLAIN.awake_w + clocked_j + rest_j
    return Draw(
        **{
            name: np.array([value])
            for name, value in (
                ("latency_s", 1.0),
                ("clocked_s", clocked_s),
                ("energy_j", joules),
                ("clocked_j", clocked_j),
            )
        }
    )


def _cap(cap_w: float, power: PowerModel = _PLAIN, clock_mhz: float = 1000.0) -> PowerCap:
    return PowerCap(cap_w=cap_w, power=power, law=power, clock_mhz=clock_mhz)


@pytest.mark.parametrize(
    ("cap_w", "clocked_s", "rest_j", "clock_frac", "latency_s"),
    [
        # Arithmetic alone: P = 100 + 300 f^3, T = 1 / f.
        (100 + 300 * 0.9**3, 1.0, 0.0, 0.9, 1 / 0.9),
        # Nothing that the clock stretches: P = 100 + 300 f^2, T = 1.
        (100 + 300 * 0.9**2, 0.0, 0.0, 0.9, 1.0),
        # Half of it, and 40 J of DRAM: T = 0.5 + 0.5 / 0.8 = 1.125, P = 100 + (300 x 0.64 + 40) / 1.125.
        (100 + 232 / 1.125, 0.5, 40.0, 0.8, 1.125),
        # Below the lowest voltage joules per operation stay: P = 100 + 300 x 0.55^2 f.
        (100 + 300 * 0.3025 * 0.5, 1.0, 0.0, 0.5, 2.0),
        # No clock is low enough: 90.75 J at what 50 W leave.
        (150.0, 0.0, 0.0, 0.15, 90.75 / 50),
        # The cap is not met at all.
        (401.0, 1.0, 0.0, 1.0, 1.0),
    ],
)
def test_the_clock_is_where_power_meets_the_cap(
    cap_w: float, clocked_s: float, rest_j: float, clock_frac: float, latency_s: float
) -> None:
    """Clock and time are those computed by hand, and where the cap binds the mean power is the cap."""
    cap, step = _cap(cap_w), _draw(clocked_s, 300.0, rest_j)
    throttle = cap.settle(step)
    assert float(throttle.clock_frac[0]) == pytest.approx(clock_frac, rel=1e-6)
    assert float(cap.latency_s(step, throttle)[0]) == pytest.approx(latency_s, rel=1e-6)
    if clock_frac < 1:
        mean_w = float((cap.energy_j(step, throttle) / cap.latency_s(step, throttle))[0])
        assert mean_w == pytest.approx(cap_w, rel=1e-6)


def test_a_locked_clock_is_where_the_cap_starts_from() -> None:
    """At 800 of 1,000 MHz 192 of 300 J are left; a cap that 720 MHz meets takes a tenth of the locked clock."""
    step = _draw(1.0, 192.0)
    throttle = _cap(100 + 192 * 0.9**3, clock_mhz=800.0).settle(step)
    assert float(throttle.clock_frac[0]) == pytest.approx(0.9, rel=1e-6)
    assert float(_cap(292.0, clock_mhz=800.0).settle(step).clock_frac[0]) == 1.0


_W = st.floats(0.0, 400.0)


@settings(max_examples=200, deadline=None)
@given(
    clocked_s=st.floats(0.0, 1.0),
    clocked_j=_W,
    rest_j=_W,
    awake_w=st.floats(100.0, 250.0),
    exponent=st.floats(0.0, 4.0),
    mhz=st.floats(200.0, 1000.0),
    caps=st.tuples(st.floats(251.0, 900.0), st.floats(251.0, 900.0)),
)
def test_a_lower_cap_is_never_faster_and_never_exceeded(
    *,
    clocked_s: float,
    clocked_j: float,
    rest_j: float,
    awake_w: float,
    exponent: float,
    mhz: float,
    caps: tuple[float, float],
) -> None:
    """Of two caps the lower one leaves no higher a clock and no shorter a time; mean power stays at each or below."""
    power = replace(_PLAIN, awake_w=awake_w, voltage_exponent=exponent)
    awake_j = float(power.awake_w_at(mhz))
    step = replace(_draw(clocked_s, clocked_j), energy_j=np.array([awake_j + clocked_j + rest_j]))
    times, clocks = [], []
    for cap_w in sorted(caps):
        cap = _cap(cap_w, power, mhz)
        throttle = cap.settle(step)
        times.append(float(cap.latency_s(step, throttle)[0]))
        clocks.append(float(throttle.clock_frac[0]))
        assert float(cap.energy_j(step, throttle)[0]) <= cap_w * times[-1] * (1 + 1e-6)
        assert times[-1] >= 1.0
    assert times[0] >= times[1] * (1 - 1e-9)
    assert clocks[0] <= clocks[1] * (1 + 1e-9)


@cache
def _serving(cluster: str = "h100-sxm-8", own_cap_w: float | None = None) -> Serving:
    spec = load_cluster(cluster)
    spec = spec.model_copy(update={"device": spec.device.model_copy(update={"power_cap_w": own_cap_w})})
    return Serving(
        model=load_model("llama-3.1-8b"),
        cluster=spec,
        profile=load_profile("vllm-0.33"),
        costs=lambda clock: choose_costs("analytic", spec, clock),
    )


def _started(plan: str, own_cap_w: float | None = None) -> StartedPlan:
    start = _serving(own_cap_w=own_cap_w).start(parse_plan(plan), _WORKLOAD)
    assert isinstance(start, StartedPlan)
    return start


@cache
def _run(plan: str, own_cap_w: float | None = None) -> SimulatedPlan:
    serving = _serving(own_cap_w=own_cap_w)
    return with_interval(serving, replay(serving, _started(plan, own_cap_w), _WORKLOAD), _WORKLOAD)


def test_no_step_is_faster_under_a_lower_cap() -> None:
    """Every entry of every step table is at least that under a higher cap, at the best estimate and at both ends."""
    names = ("token_mixed_ps", "token_decode_ps", "sample_ps", "decode_ps", "prefill_pair_ps", "prefill_kv_ps")
    for end in ("low", "middle", "high"):
        before = _started("tp2").compiled.tables(end)
        for cap_w in (700, 500, 350, 200, 120, 82):
            tables = _started(f"tp2-cap{cap_w}").compiled.tables(end)
            for name in names:
                # Picoseconds are rounded, and an end joins two widths in quadrature.
                assert np.all(getattr(tables, name) >= 0.999 * getattr(before, name) - 1), (cap_w, end, name)
            before = tables


def test_prompts_feel_a_cap_that_a_small_decode_step_hardly_does() -> None:
    """At 350 of 700 W a step of 4,096 prompt tokens takes 1.2 to 1.9 times as long, two sequences at most 1.05."""
    free, capped = (_started(plan).compiled.tables() for plan in ("tp2", "tp2-cap350"))
    assert 1.2 < capped.token_mixed_ps[0, 4096] / free.token_mixed_ps[0, 4096] < 1.9
    assert capped.token_decode_ps[0, 2] / free.token_decode_ps[0, 2] < 1.05


def test_a_cap_is_a_mean_over_the_kernels_of_a_step() -> None:
    """A decode step may hold kernels that draw more than the cap for a moment, never a step that does on average."""
    compiled = _started("tp2-cap350").compiled
    stage, knots = compiled.stages[0], compiled.knots
    kernels_w = [
        curve.energy_j / curve.latency_s for _, curve, _ in stage.tokens_of_decode._added if curve.latency_s.all()
    ]
    assert max(float(watts.max()) for watts in kernels_w) > 351
    held = _WORKLOAD.mean_context_tokens
    decode = [
        np.array([np.interp(batch * held, knots.kv, row) for batch, row in zip(knots.batch, grid, strict=True)])
        for grid in (
            stage.decode.energy_j.reshape(len(knots.batch), -1),
            stage.decode.latency_s.reshape(len(knots.batch), -1),
        )
    ]
    tokens = [
        np.interp(knots.batch, knots.tokens, values)
        for values in (stage.tokens_of_decode.energy_j, stage.tokens_of_decode.latency_s)
    ]
    samples = [
        np.interp(knots.batch, knots.rows, values) for values in (stage.samples.energy_j, stage.samples.latency_s)
    ]
    joules, seconds = (sum(parts) for parts in zip(decode, tokens, samples, strict=True))
    assert np.all(joules / seconds <= 350 * 1.01)
    assert np.max(joules / seconds) > 340


def test_a_cap_that_nothing_reaches_changes_nothing() -> None:
    """The board's own limit is what every price keeps already: the same metrics and intervals, to the bit."""
    free, capped = _run("tp2"), _run("tp2-cap700")
    assert capped.metrics == free.metrics
    assert capped.interval == free.interval


def test_the_clusters_own_cap_acts_like_a_plans_and_the_lower_one_holds() -> None:
    """300 W of the cluster file are 300 W of the plan; a plan cannot lift them, and may go below."""
    of_plan = _run("tp2-cap300").metrics
    assert _run("tp2", 300.0).metrics == of_plan
    assert _run("tp2-cap500", 300.0).metrics == of_plan
    assert _run("tp2-cap300", 500.0).metrics == of_plan


def test_a_plan_with_clock_and_cap_is_no_faster_than_with_either() -> None:
    """Under both, steps take at least as long as at the locked clock; a cap far above its power changes nothing."""
    both, clock = _run("tp2-f1410-cap250"), _run("tp2-f1410")
    assert both.metrics["ttft_s"]["mean"] > 1.05 * clock.metrics["ttft_s"]["mean"]
    assert _run("tp2-f1200-cap650").metrics == _run("tp2-f1200").metrics


def test_a_lower_cap_takes_longer_and_draws_less() -> None:
    """Time to first token rises, mean power and joules fall, and power lies between idle and the cap."""
    runs = [_run(plan).metrics for plan in ("tp2", "tp2-cap450", "tp2-cap300")]
    for free, capped in pairwise(runs):
        assert capped["ttft_s"]["mean"] > free["ttft_s"]["mean"]
        assert capped["energy_j"] < free["energy_j"]
        assert capped["mean_power_w"] < free["mean_power_w"]
    assert 70 < runs[-1]["mean_power_w"] <= 300 * (1 + 1e-6)


def test_the_law_of_voltage_widens_joules_at_a_lower_clock_and_times_under_a_cap() -> None:
    """At a locked clock its error enters the joules; under a cap, where joules are the cap's, it enters the times."""

    def width(plan: str, path: str) -> float:
        low, high = (_run(plan).interval or {})[path]
        return math.log(high / low)

    assert width("tp2-f990", "energy_j") > width("tp2", "energy_j") + 0.05
    # Analytic prices are so wide that quadrature hides what the law adds to them: compare a step's own width.
    capped, free = (_started(plan).compiled for plan in ("tp2-cap300", "tp2"))
    name = "gemm"
    widths = []
    for compiled in (capped, free):
        tokens = compiled.stages[0].tokens
        widths.append((tokens.half_width_s("high", {name}) / tokens.by_label[name])[-1])
    assert widths[0] > widths[1]


def test_a_cap_that_no_device_can_hold_is_refused() -> None:
    """Below what an awake device draws at its lowest clock, above the board's limit, and on what has no power model."""
    serving = _serving()
    power = serving.curves(None).power
    least_w = least_cap_w(power)
    # 70 W idle; awake adds 126 W at the top, at 0.15 of the clock and at most 0.55 of the energy 10.4 W.
    assert least_w == pytest.approx(70 + 126 * 0.15 * 0.55)
    for cap, said in (("60", "must be above the 80 W"), ("75", "(70 W idle)"), ("701", "must be at most 700 W")):
        refused = serving.start(parse_plan(f"tp2-cap{cap}"), _WORKLOAD)
        assert isinstance(refused, Refusal)
        assert said in refused.reason
        with pytest.raises(UserError, match=f"--caps: power cap is {cap} W") as caught:
            check_cap(float(cap), serving.cluster.device, power, "--caps")
        assert caught.value.hint == "caps of h100-sxm are above 80 W and at most 700 W"
    cpu = load_cluster("cpu-2").device
    with pytest.raises(UserError, match=r"the power of a cpu \(cpu\) has no model"):
        check_cap(10.0, cpu, PowerModel.from_device(cpu), "--caps")
