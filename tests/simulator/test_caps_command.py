"""`--caps` and plans that state a power cap, as a person types them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
_MODEL = ("--model", "tiny-llama", "--cluster", "h100-sxm-2", "--costs", "analytic")
_TRACE = ("--trace", "synthetic:isl=900,osl=40,rate=200,n=40,seed=1")
_SEARCH = ("search", *_MODEL, *_TRACE, "--json")


def test_caps_are_an_axis_and_reach_plan_and_launch_command() -> None:
    """A real `apex search --caps default,150` ranks each layout with and without the cap, and prints how to set it."""
    line = [str(Path(sys.executable).with_name("apex")), *_SEARCH, "--caps", "default,150", "--no-interval"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    plans = {plan["plan"]: plan for plan in json.loads(done.stdout)["plans"]}
    capped = [name for name in plans if name.endswith("-cap150")]
    assert sorted(name.removesuffix("-cap150") for name in capped) == sorted(set(plans) - set(capped))
    for name in capped:
        assert "nvidia-smi -pl 150  # watts; as root, for these devices (--id)" in plans[name]["launch"]
        free = plans[name.removesuffix("-cap150")]["metrics"]
        assert plans[name]["metrics"]["mean_power_w"] < free["mean_power_w"]


def test_the_least_energy_within_limits_is_found_over_clocks_and_caps(run_apex: Run) -> None:
    """Joules fall with the clock and with the cap, and the limit rules out the plans that are too slow for it."""
    axes = ("--clocks", "default,990", "--caps", "default,150", "--objective", "energy_j_per_output_token")
    found = json.loads(run_apex(*_SEARCH, *axes).stdout)["plans"]
    joules = {plan["plan"]: plan["metrics"]["energy_j_per_output_token"] for plan in found}
    assert [plan["plan"] for plan in found] == sorted(joules, key=lambda name: (joules[name], name))
    for layout in ("dp2", "tp2"):
        assert joules[f"{layout}-cap150"] < joules[layout]
        assert joules[f"{layout}-f990"] < joules[layout]
        assert joules[f"{layout}-f990-cap150"] <= joules[f"{layout}-f990"]
    times = {plan["plan"]: plan["metrics"]["ttft_s"]["p99"] for plan in found}
    limit = min(times[name] for name in times if "cap" in name) * 0.999
    kept = json.loads(run_apex(*_SEARCH, *axes, "--slo", f"ttft_s.p99<={limit}").stdout)["plans"]
    assert [plan["plan"] for plan in kept if not plan["breaks"]] == [
        name for name in (plan["plan"] for plan in found) if times[name] <= limit
    ]
    compared = [plan for plan in found if "versus_best" in plan]
    assert all(plan["versus_best"]["metric"] == "energy_j_per_output_token" for plan in compared)


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (("--caps", "60"), "--caps: power cap is 60 W, must be above the 80 W", "caps of h100-sxm are above 80 W"),
        (("--caps", "default,900"), "--caps: power cap is 900 W, must be at most 700 W", "at most 700 W"),
        (("--caps", "low"), "'low' is no power cap in watts", ""),
        (("--caps", "0"), "'0' is no power cap in watts above 0", ""),
        (("--plan", "tp2-cap60"), "plan tp2-cap60: power cap is 60 W, must be above the 80 W", "at most 700 W"),
        (("--plan", "tp2", "--caps", "350"), "--plan states what is searched", ""),
        (("--plan", "prefill.tp1+decode.tp1-cap60"), "plan prefill.tp1+decode.tp1-cap60: power cap is 60 W", "700 W"),
    ],
)
def test_a_cap_that_cannot_be_is_refused_before_anything_runs(
    run_apex: Run, words: tuple[str, ...], said: str, hint: str
) -> None:
    """One error names place, value and limit, the hint what can be; nothing is printed as an answer."""
    done = run_apex(*_SEARCH, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert hint in done.stderr


def test_a_device_without_a_power_model_takes_no_cap(run_apex: Run) -> None:
    """A CPU's power by clock is not modelled: a plan with a cap is refused, and the hint says why."""
    done = run_apex("simulate", "--model", "tiny-llama", "--cluster", "cpu-2", *_TRACE, "--plan", "tp2-cap10")
    assert done.returncode == 2
    assert "plan tp2-cap10: power cap is 10 W, but the power of a cpu (cpu) has no model" in done.stderr
    assert "hint: caps are modelled for GPUs alone" in done.stderr
