"""What stands in for what was asked for: older profiles, constants of devices nobody measured, other tables."""

import math

import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from simulator.engine_profiles.engine_profile import load_profile
from simulator.engine_profiles.spread import Spread, Widths
from simulator.feasible.stand_ins import stand_ins
from simulator.model.load_model import load_model
from simulator.serving import Serving


@pytest.mark.parametrize(
    ("asked", "profile"),
    [
        ("vllm-0.40", "vllm-0.33"),
        ("vllm-1.2", "vllm-0.33"),
        ("vllm-0.25.1", "vllm-0.19"),
        ("vllm-0.7", "vllm-0.6"),
        ("vllm-0.18.1", "vllm-0.18"),
        ("sglang-0.9", "sglang-0.5"),
        ("tensorrt-llm-99.2.0rc6.post3", "tensorrt-llm-1.2"),
    ],
)
def test_a_version_without_a_profile_takes_the_nearest_older_one(asked: str, profile: str) -> None:
    """Newer than any profile or between two of them: the profile below stands in, and knows for what."""
    found = load_profile(asked)
    assert found.engine == load_profile(profile).engine
    assert found.stands_in_for == asked
    assert load_profile(found.name).stands_in_for is None
    if profile.startswith("vllm"):
        assert found.name == profile


@pytest.mark.parametrize("asked", ["vllm-0.3", "vlm-0.40", "vllm", "vllm-0.", "vllm-new", "orca-2"])
def test_a_misspelt_name_and_a_version_before_all_profiles_stay_errors(asked: str) -> None:
    """Only a newer version of a known engine has a profile that stands in."""
    with pytest.raises(UserError) as caught:
        load_profile(asked)
    assert "is no engine profile" in str(caught.value)
    assert caught.value.hint


def test_a_newer_version_widens_and_a_patch_release_does_not() -> None:
    """A release of a profile's own minor version is among the servers its spread was learnt from."""
    newer, patch = load_profile("vllm-0.40"), load_profile("vllm-0.33.7")
    assert [item.key for item in stand_ins(newer, ["vllm"])] == ["other_version"]
    assert [item.key for item in stand_ins(patch, ["vllm"])] == [None]
    note = stand_ins(newer, ["vllm"])[0].note(newer.spread)
    assert "vllm-0.40 has no profile, vllm-0.33 stands in" in note
    assert "% of TTFT" in note


def test_what_prices_rest_on_widens_too() -> None:
    """Constants of a device instead of measurements, or kernels of another engine, stand in as a version does."""
    profile = load_profile("vllm-0.33")
    assert stand_ins(profile, ["vllm", "sglang", "nccl"]) == []
    assert [item.key for item in stand_ins(profile, [])] == ["unmeasured_device"]
    assert [item.key for item in stand_ins(profile, ["sglang", "nccl"])] == ["other_tables"]
    assert stand_ins(profile, ["torch"]) == []


def test_a_server_says_what_stands_in_and_takes_its_widths() -> None:
    """The spread a plan is compiled with holds the stand-ins, and the notes name each."""
    cluster = load_cluster("h100-sxm-8")
    spreads = {}
    for engine in ("vllm-0.33", "vllm-0.40"):
        serving = Serving(
            model=load_model("llama-3.1-8b"),
            cluster=cluster,
            profile=load_profile(engine),
            costs=lambda clock: choose_costs(None, cluster, clock),
        )
        spreads[engine] = serving.spread(None)
        assert any("stands in" in note for note in serving.price_notes()) == (engine == "vllm-0.40")
    assert spreads["vllm-0.40"].step_frac > spreads["vllm-0.33"].step_frac
    assert spreads["vllm-0.40"].own_step_frac == spreads["vllm-0.33"].own_step_frac


def test_stand_ins_add_in_quadrature_of_logarithms() -> None:
    """A half width of 20 % and one of 10 % are sqrt(ln(1.2)^2 + ln(1.1)^2) together; nothing adds nothing."""
    spread = Spread(step_frac=0.2, source="a test")
    assert spread.widened([None]) == spread
    both = spread.widened([Widths(step_frac=0.1, source="a test")])
    assert math.log1p(both.step_frac) == pytest.approx(math.hypot(math.log(1.2), math.log(1.1)))
    assert both.first_token_frac == 0.0
