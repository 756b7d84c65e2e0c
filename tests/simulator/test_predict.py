"""Measured runs replayed: the same requests, the same client, the same definitions of every metric."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster_specs.errors import UserError
from simulator.engine_profiles.engine_profile import load_profile
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun, predict_run
from simulator.validation.read_results import read_results
from tests.simulator.bench_results import DEPLOYMENT, save_results, simulated_result, with_failures

OPEN = "synthetic:isl=300,osl=40,rate=4,n=60,seed=3"
CLOSED = "closed:isl=400,osl=60,concurrency=4,ratio=0.5,warmup_per_slot=0"
PATHS = ("ttft_s.mean", "ttft_s.p99", "tpot_s.mean", "tpot_s.p90", "e2e_s.p50", "itl_s.mean", "duration_s",
         "throughput_tokens_per_s", "throughput_requests_per_s", "throughput_total_tokens_per_s")  # fmt: skip


def read_one(path: Path, **changes: Any) -> MeasuredRun:
    (run,) = read_results([path], replace(DEPLOYMENT, **changes))
    assert isinstance(run, MeasuredRun), run
    return run


def predicted(path: Path, **changes: Any) -> ValidatedRun:
    found = predict_run(read_one(path, **changes))
    assert isinstance(found, ValidatedRun), found
    return found


@pytest.mark.parametrize("traffic", [OPEN, CLOSED])
def test_a_server_that_is_the_simulator_is_predicted_without_error(tmp_path: Path, traffic: str) -> None:
    """Times measured by the simulator's own definitions come back as they were, in an open and in a closed loop."""
    found = predicted(save_results(tmp_path / "run.json", simulated_result(traffic)))
    for path in PATHS:
        assert found.error_frac(path) == pytest.approx(0.0, abs=1e-6), path
        assert found.is_covered(path), path


def test_rates_are_over_the_clients_own_duration(tmp_path: Path) -> None:
    """A client that starts its clock before the first request is due has lower rates, and so has the prediction."""
    result = simulated_result(OPEN)
    late = save_results(tmp_path / "late.json", {**result, "duration": result["duration"] + 5.0})
    found = predicted(late)
    assert found.run.client_lead_s == pytest.approx(5.0)
    assert found.run.measured["throughput_requests_per_s"] == pytest.approx(60 / (result["duration"] + 5.0))
    assert found.error_frac("throughput_requests_per_s") == pytest.approx(0.0, abs=1e-6)


def test_every_appended_result_is_a_run_of_its_own(tmp_path: Path) -> None:
    """All results of a file are read, each under its number."""
    path = save_results(tmp_path / "runs.jsonl", simulated_result(OPEN), simulated_result(CLOSED))
    runs = read_results([path], DEPLOYMENT)
    assert [run.name for run in runs] == ["runs#1", "runs#2"]


def test_a_run_that_failed_is_counted_with_its_reason(tmp_path: Path) -> None:
    """Where more than a few requests failed, the rest did not feel the load that is replayed."""
    result = simulated_result(OPEN)
    (run,) = read_results([save_results(tmp_path / "r.json", with_failures(result, 6))], DEPLOYMENT)
    assert isinstance(run, UnusableRun)
    assert "6 of 60 requests failed" in run.reason


def test_a_plan_that_cannot_start_makes_the_run_unusable(tmp_path: Path) -> None:
    """What the simulator would not start is told per run, not raised."""
    run = read_one(save_results(tmp_path / "r.json", simulated_result(OPEN)), plan="tp8")
    found = predict_run(run)
    assert isinstance(found, UnusableRun)
    assert "plan tp8 cannot start" in found.reason


def test_profiles_that_differ_in_host_times_share_prices(tmp_path: Path) -> None:
    """A variant of host times alone replays with the curves that are priced already, and moves the prediction."""
    run = read_one(save_results(tmp_path / "r.json", simulated_result(CLOSED)))
    profile = load_profile(DEPLOYMENT.engine)
    slower = profile.model_copy(update={"host": profile.host.model_copy(update={"serial_step_s": 2e-3})})
    predictor = Predictor()
    first, second = (predictor.predict(run, own, with_interval=False) for own in (profile, slower))
    assert isinstance(first, ValidatedRun)
    assert isinstance(second, ValidatedRun)
    assert second.predicted["tpot_s.mean"] > first.predicted["tpot_s.mean"]
    assert predictor.serving(run.deployment, profile).priced is predictor.serving(run.deployment, slower).priced


def test_what_a_result_tells_of_its_server_is_kept(tmp_path: Path) -> None:
    """Engine, version, KV blocks and preemptions of the run come with it; a value that cannot be is refused."""
    server = {"engine": "vllm", "version": "0.32.0", "num_gpu_blocks": 7463, "preemptions": 2, "prefix_hit_frac": 0.5}
    result = simulated_result(OPEN, server=server)
    facts = read_one(save_results(tmp_path / "r.json", result)).server
    assert (facts.engine, facts.version, facts.num_gpu_blocks, facts.block_size) == ("vllm", "0.32.0", 7463, None)
    assert (facts.preemptions, facts.prefix_hit_frac) == (2, 0.5)
    for key, value in (("num_gpu_blocks", 0), ("prefix_hit_frac", 50), ("version", 32)):
        wrong = save_results(tmp_path / "w.json", {**result, "server": {key: value}})
        with pytest.raises(UserError, match=rf"server: {key} is {value}"):
            read_results([wrong], DEPLOYMENT)


def test_quantiles_of_itl_are_those_of_single_gaps(tmp_path: Path) -> None:
    """A prefill between two tokens makes one gap long, which requests' means hide; the interval goes with it."""
    found = predicted(save_results(tmp_path / "r.json", simulated_result(OPEN)))
    assert found.predicted["itl_s.p99"] > 1.3 * found.predicted["tpot_s.p99"]
    low, high = found.interval["itl_s.p99"]
    assert low < found.predicted["itl_s.p99"] < high
    told = predicted(save_results(tmp_path / "r.json", simulated_result(OPEN)), engine="vllm-0.18",
                     settings={"stream_interval": 4})  # fmt: skip
    assert "itl_s.p99" not in told.predicted
    assert any("quantiles of ITL are not predicted" in note for note in told.notes)


def test_kv_blocks_that_have_no_room_make_the_run_unusable(tmp_path: Path) -> None:
    """A server that logged more KV blocks than this model leaves memory for was another server."""
    result = simulated_result(OPEN, server={"engine": "vllm", "num_gpu_blocks": 2_000_000})
    found = predict_run(read_one(save_results(tmp_path / "r.json", result)))
    assert isinstance(found, UnusableRun)
    assert "2,000,000 KV blocks take 3906.2 GiB beside" in found.reason
