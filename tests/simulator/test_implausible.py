"""Measured points are not believed by rule, each with the reason."""

from dataclasses import replace

import pytest

from cluster_specs.load import load_cluster
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.validation.implausible import Limits, MeasuredPoint, implausible, share_of_peak

_LIMITS = Limits(most_of_peak_frac=0.60, most_faster_frac=0.05, most_concurrency=256)
# A plausible run of Llama-3.1-70B on one H200: 1k in, 1k out, 16 at a time.
_POINT = MeasuredPoint(
    prompt_tokens=1024,
    output_tokens=1024,
    concurrency=16,
    devices=1,
    ttft_s=0.300,
    tpot_s=0.025,
    alike=("1024", "1024"),
)


def _reasons(*points: MeasuredPoint) -> list[str | None]:
    model, cluster, plan = load_model("llama-3.1-70b"), load_cluster("h200-sxm-8"), parse_plan("tp1-w.fp8")
    return implausible(points, [share_of_peak(point, model, plan, cluster) for point in points], _LIMITS)


def test_plausible_points_are_believed() -> None:
    """A light and a heavy load with growing times break no rule."""
    assert _reasons(_POINT, replace(_POINT, concurrency=64, ttft_s=0.700, tpot_s=0.038)) == [None, None]


def test_more_arithmetic_than_the_device_has_is_not() -> None:
    """A prompt answered in 5 ms needs 1024 x 2 x 70.6e9 FLOP in that time, many times the peak."""
    fast = replace(_POINT, ttft_s=0.005)
    (reason,) = _reasons(fast)
    assert reason is not None
    assert "of the dense peak" in reason
    assert fast.implied_flop_per_s(70_600_000_000) == pytest.approx(2.89e16, rel=0.01)


def test_faster_under_more_load_is_not_believed_beyond_noise() -> None:
    """Five percent is noise, six is not; points of another length are not compared."""
    light = replace(_POINT, concurrency=8)
    assert _reasons(light, replace(_POINT, tpot_s=0.0240)) == [None, None]
    assert _reasons(light, replace(_POINT, tpot_s=0.0234)) == [None, "TPOT 23.4 ms, but 25.0 ms at concurrency 8"]
    other = replace(_POINT, tpot_s=0.0234, output_tokens=2048, alike=("1024", "2048"))
    assert _reasons(light, other) == [None, None]


def test_concurrency_beyond_any_default_is_not_believed() -> None:
    """Above 256 in flight an unrecorded max_num_seqs decides."""
    (reason,) = _reasons(replace(_POINT, concurrency=512, tpot_s=0.200))
    assert reason == "concurrency 512 with no recorded max_num_seqs"
