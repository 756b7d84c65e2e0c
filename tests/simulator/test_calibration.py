"""Constants of a profile estimated from runs of a server: recovered, told apart, refused, written."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster_specs.errors import UserError
from profiles_db.recordings.server_facts import ServerFacts
from simulator.calibration.calibrate import Calibration, calibrate, name_of
from simulator.calibration.choose_runs import choose_runs
from simulator.calibration.evidence import E2E, ITL, RATE, TPOT, TTFT, telling_metrics
from simulator.calibration.learnt import with_values
from simulator.calibration.memory_constants import counted_memory, learn_memory
from simulator.calibration.plan_runs import plan_runs
from simulator.calibration.posterior import most_likely, moves_covariance
from simulator.calibration.profile_file import profile_text
from simulator.calibration.told import told, untold
from simulator.calibration.unknowns import profile_at, unknowns_of
from simulator.calibration.width import likeliest_width, narrowed
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.engine_profiles.load_factors import LoadFactors, LoadPoint
from simulator.engine_profiles.price_factors import FAMILIES, PriceFactors
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import ValidatedRun, predict_run
from simulator.validation.read_results import read_results
from tests.simulator.bench_results import DEPLOYMENT, save_results, simulated_result, with_failures

_LOADS = ((1, 256, 48), (8, 1024, 64), (24, 256, 96), (2, 6000, 48))
_OTHER = "closed:isl=2000,osl=48,concurrency=6,ratio=0.5,warmup_per_slot=0"
_SLOW = 1.4
_FRONTEND_S = 0.015


def _slower(profile: EngineProfile) -> EngineProfile:
    """Return the server that is measured: every kernel takes longer than its price says, and so does the frontend."""
    host = profile.host.model_copy(update={"frontend_s": _FRONTEND_S})
    return profile.model_copy(
        update={"price_factors": PriceFactors(**dict.fromkeys(FAMILIES, _SLOW), source="a test"), "host": host}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four results of a slower server, and one more that is not calibrated on."""
    path = tmp_path_factory.mktemp("runs")
    profile = _slower(load_profile("vllm-0.33"))
    for concurrency, prompt, output in _LOADS:
        traffic = f"closed:isl={prompt},osl={output},concurrency={concurrency},ratio=0.5,warmup_per_slot=0"
        save_results(path / f"c{concurrency}.json", simulated_result(traffic, profile=profile))
    save_results(path / "other.json", simulated_result(_OTHER, profile=profile))
    return path


def _runs(folder: Path) -> list[MeasuredRun]:
    found = read_results([folder / f"c{concurrency}.json" for concurrency, _, _ in _LOADS], DEPLOYMENT)
    return [run for run in found if isinstance(run, MeasuredRun)]


@pytest.fixture(scope="module")
def found(folder: Path) -> Calibration:
    """Return the calibration on the four."""
    return calibrate(_runs(folder))


def test_a_server_that_is_slower_is_found_to_be(found: Calibration) -> None:
    """All kernels and the frontend come out within their errors, and runs left out are predicted far better."""
    factors, host = found.values["price_factors"], found.values["host"]
    assert factors["attention_decode"] == pytest.approx(_SLOW, rel=0.15)
    assert host["frontend_s"] == pytest.approx(_FRONTEND_S, abs=1.5 * error_of(host["frontend_s"]))
    before, after = (np.abs(errors).mean() for errors in (found.left_out.before, found.left_out.after))
    assert after < 0.3 * before
    assert found.width == 1.0
    assert found.estimate.is_settled


def test_a_calibrated_profile_predicts_what_it_has_not_seen(folder: Path, found: Calibration) -> None:
    """Used by its path, the written profile is nearer to another run of the server, with narrower intervals."""
    path = folder / "ours.toml"
    path.write_text(profile_text(found, path))
    (run,) = read_results([folder / "other.json"], DEPLOYMENT)
    assert isinstance(run, MeasuredRun)
    before, after = predict_run(run), predict_run(run, load_profile(str(path)))
    assert isinstance(before, ValidatedRun)
    assert isinstance(after, ValidatedRun)
    for metric in (TTFT, TPOT):
        assert abs(after.error_frac(metric) or 1.0) < 0.05 < abs(before.error_frac(metric) or 0.0)
        assert after.is_covered(metric)
    wide, narrow = (item.interval[TPOT] for item in (before, after))
    assert narrow[1] / narrow[0] < wide[1] / wide[0]


def test_the_same_runs_write_the_same_bytes(folder: Path, found: Calibration) -> None:
    """A second calibration of copies in another folder gives the same file, with a digest of each result."""
    other = folder / "copies"
    other.mkdir()
    for concurrency, _, _ in _LOADS:
        shutil.copy(folder / f"c{concurrency}.json", other / f"c{concurrency}.json")
    texts = [profile_text(item, Path("x.toml")) for item in (found, calibrate(_runs(other)))]
    assert texts[0] == texts[1]
    assert "c24.json " in texts[0]
    assert "under vllm-0.33, measured 2026-12-01: c1 (tp1)" in texts[0]
    assert 'extends = "vllm-0.33"' in texts[0]


def test_a_profile_of_a_file_is_extended_by_the_path_from_the_new_one(folder: Path) -> None:
    """Where the runs were predicted with a person's own profile, the new one names it relative to itself."""
    mine = folder / "mine.toml"
    mine.write_text('schema = 1\nname = "mine"\nextends = "vllm-0.33"\n')
    runs = [replace(run, deployment=replace(run.deployment, engine=str(mine))) for run in _runs(folder)]
    below = folder / "below"
    below.mkdir()
    path = below / "ours.toml"
    path.write_text(profile_text(calibrate(runs), path))
    assert 'extends = "../mine.toml"' in path.read_text()
    assert load_profile(str(path)).price_factors.gemm != 1.0


def test_runs_of_the_profile_itself_change_nothing_much(tmp_path: Path) -> None:
    """A server that behaves as predicted is left as it is, to a hundredth."""
    for concurrency, prompt, output in _LOADS:
        traffic = f"closed:isl={prompt},osl={output},concurrency={concurrency},ratio=0.5,warmup_per_slot=0"
        save_results(tmp_path / f"c{concurrency}.json", simulated_result(traffic))
    same = calibrate(_runs(tmp_path))
    assert np.abs(same.estimate.moves).max() < 0.01
    assert same.width == 0.0
    assert same.values == {}


def test_constants_may_be_named(folder: Path) -> None:
    """Only what is named is estimated; a name nobody knows and more names than numbers are refused, by name."""
    runs = _runs(folder)
    only = calibrate(runs, ["host.frontend_s"])
    assert [name_of(only.unknowns[place]) for place in only.estimate.kept] == ["host.frontend_s"]
    with pytest.raises(UserError, match=r"host\.nothing"):
        calibrate(runs, ["host.nothing"])
    everything = [name_of(unknown) for unknown in only.unknowns]
    with pytest.raises(UserError, match=r"8 measured numbers cannot tell 16 constants.*price_factors\.small_ops"):
        calibrate(runs, everything)


def test_runs_that_say_nothing_together_are_refused(folder: Path) -> None:
    """Too few runs, failed ones, those of two servers, and KV blocks of another model are refused by place."""
    runs = _runs(folder)
    with pytest.raises(UserError, match="2 runs are too few"):
        calibrate(runs[:2])
    with pytest.raises(UserError, match=r"b\.json.*boom"):
        calibrate([*runs, UnusableRun(name="b", place="b.json", reason="boom")])
    with pytest.raises(UserError, match=r"c1\.json: 3 of its requests failed"):
        calibrate([replace(runs[0], failed=3), *runs[1:]])
    for changed in (
        replace(runs[3], deployment=replace(runs[3].deployment, model="llama-3.2-1b")),
        replace(runs[3], deployment=replace(runs[3].deployment, engine="vllm-0.19")),
        replace(runs[3], deployment=replace(runs[3].deployment, cluster="h200-sxm-8")),
    ):
        with pytest.raises(UserError, match="runs of two servers"):
            calibrate([*runs[:3], changed])
    versions = [replace(run, server=ServerFacts(version=version)) for run, version in zip(runs, "1112", strict=True)]
    with pytest.raises(UserError, match="engine version 2"):
        calibrate(versions)
    with pytest.raises(UserError, match="had 900 KV blocks"):
        calibrate([replace(runs[0], server=ServerFacts(num_gpu_blocks=900)), *runs[1:]])


def test_failed_requests_are_refused_from_the_file(tmp_path: Path, folder: Path) -> None:
    """A result of which one request failed is no run to calibrate on."""
    result = with_failures(simulated_result(_OTHER), 1)
    (run,) = read_results([save_results(tmp_path / "failed.json", result)], DEPLOYMENT)
    with pytest.raises(UserError, match=r"failed\.json"):
        calibrate([*_runs(folder), run])


def test_what_one_load_has_alone_reaches_its_neighbours(tmp_path: Path) -> None:
    """Of steps of 24 sequences that take a fifth longer a part is found to be theirs; one sequence has hardly any."""
    slow = LoadFactors(points=[LoadPoint(tokens=24, ranks=1, weight=math.log(1.2))], source="a test")
    profile = load_profile("vllm-0.33").model_copy(update={"load_factors": slow})
    for concurrency, prompt, output in _LOADS:
        traffic = f"closed:isl={prompt},osl={output},concurrency={concurrency},ratio=0.5,warmup_per_slot=0"
        save_results(tmp_path / f"c{concurrency}.json", simulated_result(traffic, profile=profile))
    told_so = calibrate(_runs(tmp_path))
    factors = with_values(told_so.profile, told_so.values).load_factors
    near, far = factors.at(np.array([24, 1]), 1)
    assert near > 1.02 > far
    assert factors.at(np.array([24]), 64)[0] == pytest.approx(1.0, abs=0.01)
    path = tmp_path / "ours.toml"
    path.write_text(profile_text(told_so, path))
    assert load_profile(str(path)).load_factors.at(np.array([24.0]), 1) == pytest.approx(near, rel=1e-3)


def test_a_server_is_as_far_from_its_profile_as_its_runs_say() -> None:
    """Residuals of the size of noise keep the profile, those of the size of the prior move it whole."""
    slopes, covariance = 0.1 * np.ones((8, 1)), 0.03**2 * np.eye(8)
    widths = [likeliest_width(size * np.ones(8), slopes, covariance) for size in (0.005, 0.04, 0.15)]
    assert widths == [0.0, 0.5, 1.0]
    profile = load_profile("vllm-0.33")
    half = narrowed(unknowns_of(profile), 0.5)
    assert [item.error for item in half] == [0.5 * item.error for item in unknowns_of(profile)]


def test_logged_blocks_move_memory_constants(folder: Path) -> None:
    """A server that has 512 MiB less than counted is found to, and other runs of it are counted with as much less."""
    runs = _runs(folder)
    serving = runs[0].deployment.serving()
    counted = counted_memory(runs[0], serving)
    assert counted is not None
    missing = round(512 * 2**20 / counted.block_bytes)
    facts = ServerFacts(num_gpu_blocks=counted.num_gpu_blocks - missing)
    logged = [
        replace(
            run,
            server=facts,
            deployment=replace(
                run.deployment, settings={**run.deployment.settings, "num_gpu_blocks": facts.num_gpu_blocks}
            ),
        )
        for run in runs
    ]
    learnt = learn_memory(logged, [run.deployment.serving() for run in logged])
    (blocks,) = learnt.blocks
    assert blocks.before - blocks.logged == missing
    assert abs(blocks.after - blocks.logged) < 0.25 * missing
    before = load_profile("vllm-0.33").memory.runtime_mib
    assert learnt.values["runtime_mib"] == pytest.approx(before + 512, abs=120)
    assert error_of(learnt.values["runtime_mib"]) < 512
    assert learn_memory(runs, [serving] * len(runs)).values == {}


def test_a_stream_interval_shows_in_the_gaps(folder: Path) -> None:
    """Chunks that come five tokens apart are a streaming interval of five, written into the profile."""
    runs = [replace(run, measured={**run.measured, ITL: 5.02 * run.measured[TPOT]}) for run in _runs(folder)]
    told_so = calibrate(runs)
    assert told_so.stream_interval == 5
    assert "[streaming]\ninterval = 5\n" in profile_text(told_so, Path("x.toml"))


def test_metrics_that_follow_from_others_are_not_counted_twice() -> None:
    """E2E counts where a part of it is missing, ITL where TPOT is, a rate where nothing else is."""
    assert telling_metrics([TTFT, TPOT, ITL, E2E, RATE]) == [TTFT, TPOT]
    assert telling_metrics([TTFT, E2E, RATE]) == [TTFT, E2E]
    assert telling_metrics([ITL, TTFT]) == [TTFT, ITL]
    assert telling_metrics([RATE]) == [RATE]
    assert telling_metrics([]) == []


def test_moves_stay_within_their_bounds() -> None:
    """What would cross a bound is held at it, and the rest fits as well as it then can."""
    slopes = np.array([[10.0, 10.0], [10.0, -10.0]])
    free = most_likely(np.array([-10.0, -30.0]), slopes, np.full(2, -9.0), np.full(2, 9.0))
    assert free[0] > 0 > free[1]
    held = most_likely(np.array([-10.0, -30.0]), slopes, np.array([-9.0, 0.0]), np.full(2, 9.0))
    assert held[1] == 0.0


def test_constants_that_runs_confuse_are_named() -> None:
    """Of two constants with the same slopes one stands for both, and one without slopes is told by nothing."""
    slopes = np.array([[9.0, 3.0, 0.0], [9.0, 3.0, 0.0]])
    kept = told(slopes)
    assert kept == [0]
    assert [(item.place, item.like) for item in untold(slopes, kept)] == [(1, 0), (2, None)]
    assert told(np.eye(3) * 5, most=2) == [1, 2]
    assert np.allclose(moves_covariance(np.zeros((0, 2))), np.eye(2))


def test_runs_are_chosen_for_what_they_tell() -> None:
    """A candidate that tells what another has told is left for one that does not, but traits come first."""
    slopes = np.array([[[9.0, 0.0]], [[8.0, 0.0]], [[0.0, 2.0]], [[0.1, 0.0]]])
    plans = ["tp1", "tp2", "tp4", "tp8"]
    assert sorted(choose_runs(slopes, plans, [TPOT], 2)) == [0, 2]
    traits = [frozenset[str](), frozenset[str](), frozenset[str](), frozenset({"long"})]
    assert 3 in choose_runs(slopes, plans, [TPOT], 2, traits)
    assert choose_runs(slopes, plans, [TPOT], 9) == choose_runs(slopes, plans, [TPOT], 4)


def test_planned_runs_span_plans_loads_and_a_long_prompt() -> None:
    """Without a measurement: both ends of tp that start, one request at a time, a crowd, and a long prompt."""
    planned = plan_runs(replace(DEPLOYMENT, cluster="h100-sxm-8").serving(), [], 4)
    assert {str(run.start.plan) for run in planned.runs} == {"tp1", "tp8"}
    assert {1, 64} <= {run.concurrency for run in planned.runs}
    assert max(run.prompt_tokens for run in planned.runs) == 8192
    assert planned.told


def test_a_move_of_nothing_is_the_profile_itself() -> None:
    """Unknowns at zero give the profile's values, and no time falls below zero."""
    profile = load_profile("vllm-0.33")
    unknowns = unknowns_of(profile)
    assert profile_at(profile, unknowns, [0.0] * len(unknowns)) == profile
    least = profile_at(profile, unknowns, [-50.0 if not item.is_factor else 0.0 for item in unknowns])
    assert least.host.step_s == 0.0
    assert load_profile("vllm-0.33").host.step_s > 0.0
