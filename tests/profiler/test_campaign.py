"""The campaign on a CPU, end to end in slices, and its pieces: anchors, their comparison, its bad input."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="the campaign measures with torch")

from profiler.bench import Bench
from profiler.campaign.__main__ import campaign
from profiler.campaign.anchors import anchor_steps, compare_steps, grouped, with_parts
from profiler.campaign.archive import archive_of
from profiler.campaign.point_lists import write_points
from profiler.campaign.stage_list import DEFAULT_STAGES, STAGES, Stage, parse_stages
from profiler.campaign.stages import Campaign
from profiler.device_spec import device_spec
from profiler.kernels.step_backend import LABEL
from profiler.kernels.step_ops import layer_ops, step_shape
from profiler.machine import Machine
from profiler.planning.points_to_measure import serving_cache
from profiler.point import Point, row_identity
from profiler.ranks import RankPlace
from profiler.request import ProfileRequest
from profiler.session import open_bench
from profiler.timing import TimingPolicy
from profiles_db.manifest import load_manifest
from profiles_db.store import open_store

DTYPES = ("bf16", "fp8", "w8a8")


@pytest.fixture
def bench(tmp_path):
    with Machine.open("cpu", None, RankPlace(), threads=1) as machine:
        policy = TimingPolicy(warmup_s=0.0, min_s=0.0, max_s=0.01, min_samples=2)
        yield open_bench(ProfileRequest(db=tmp_path, device="cpu", policy=policy), machine)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_anchor_manifests_hold_every_step_and_each_part_once(tmp_path, kind):
    """Each group's manifest asks for its steps and for the distinct kernels they are made of; no step is in two."""
    steps = anchor_steps(kind, DTYPES)
    groups = grouped(steps)
    assert [step for group in groups for step in group] == steps
    for group in groups:
        write_points(with_parts(group), tmp_path / "anchors.json")
        tables = load_manifest(tmp_path / "anchors.json").tables
        parts = {part for step in group for part in layer_ops(step)}
        assert tables["step"].num_rows == len(group) == len(set(group))
        assert sum(table.num_rows for name, table in tables.items() if name != "step") == len(parts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_flop_are_those_of_its_weights(dtype):
    """The GEMMs of a layer hold two FLOP per weight and token: 8B's layers have 218 M weights each."""
    step = step_shape("llama-3.1-8b", dtype=dtype, tp=1, layers=1, decode=(3, 64))
    weights = sum(op.shape["n"] * op.shape["k"] for op in layer_ops(step) if op.family == "gemm")
    assert weights == 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_runs_all_its_kernels(bench, dtype):
    """A tiny step of every format is measured as one point on the stack's own label."""
    step = step_shape("llama-3.2-1b", dtype=dtype, tp=8, layers=1, decode=(1, 16))
    (point,) = bench.place(step, device_name="cpu", cache="hot")
    assert point.backend == LABEL
    assert bench.measure(point)[0]["status"] == "ok"


@pytest.mark.parametrize(
    ("model", "tp", "words"),
    [("nobody", 1, "no layer sizes of 'nobody'"), ("llama-3.1-8b", 7, "do not split over tp=7")],
)
def test_steps_that_cannot_be_built_say_why(bench, model, tp, words):
    """An unknown model or a sharding that does not divide ends as unsupported with the reason."""
    step = step_shape(model, dtype="bf16", tp=tp, layers=1, decode=(1, 16))
    (row,) = bench.measure(bench.place(step, device_name="cpu", cache="cold")[0])
    assert row["status"] == "unsupported"
    assert words in row["note"]


def test_the_sum_of_parts_is_compared_with_the_whole(bench, tmp_path):
    """The sum of the part times over all layers is set against the time of the step, once every part is stored."""
    assert isinstance(bench, Bench)
    step = step_shape("llama-3.2-1b", dtype="bf16", tp=4, layers=2, decode=(1, 16))
    store = open_store(tmp_path, bundled=None)

    def write(op, backend, latency_s):
        point = Point(op=op, device="cpu", backend=backend, launch="eager", cache=serving_cache(op.family))
        result = {"latency_s": latency_s, "samples": 1, "status": "ok", "origin": "measured"}
        store.append(op.family, [point.columns | result], "run")

    parts = layer_ops(step)
    for part in set(parts):
        write(part, bench.step_backend.kernel_of(part)[1], 1e-3)
    assert compare_steps(store, "cpu", [step], bench.step_backend) == []
    write(step, LABEL, 10e-3)
    (found,) = compare_steps(store, "cpu", [step], bench.step_backend)
    assert found.summed_s == pytest.approx(2 * len(parts) * 1e-3)
    assert found.error == pytest.approx(2 * len(parts) * 1e-3 / 10e-3 - 1)


def test_the_campaign_needs_nothing_that_gpu_images_lack():
    """Its stages load without pydantic, Hypothesis and the plotting and table libraries."""
    lacking = ("pydantic", "pandas", "sklearn", "matplotlib", "numba", "hypothesis", "vllm")
    code = f"import sys\nfor name in {lacking}: sys.modules[name] = None\nimport profiler.campaign.stages"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_specs_are_read_without_pydantic():
    """The fallback reader gives the same numbers as the checked one."""
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "from profiler.device_spec import device_spec as s\n"
        "import json; d = s('h200-sxm'); print(json.dumps([d.peak_flop_per_s['bf16'], d.clock.reference_mhz]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    spec = device_spec("h200-sxm")
    assert json.loads(done.stdout) == [spec.peak_flop_per_s["bf16"], spec.clock.reference_mhz]
    assert device_spec("abacus") is None


# Stages as long as they take, save the profile, which is asked for the least it can do.
EVERY = ",".join(f"{name}=0.001s" if name == "profile" else name for name in STAGES)
CAMPAIGN = ("--device", "cpu", "--dtypes", "bf16", "--slice", "1h", "--total", "1h", "--stages", EVERY, "--db")


# What the command tells the worker it keeps alive.
WORKER = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
WORKER |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def run_slice(db, stages=EVERY):
    """Run one slice on the CPU to its end, as the worker does, and return its summary and what it said."""
    done = CliRunner(env=WORKER).invoke(campaign, [*CAMPAIGN[:-2], stages, "--db", str(db)])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory, wait_until):
    """Stop a slice at its first row and run another to the end; returns the folder and what the last one printed."""
    db = tmp_path_factory.mktemp("campaign")
    command = [sys.executable, "-m", "profiler.campaign", *CAMPAIGN, str(db)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as stopped:
        wait_until(lambda: any(path.stat().st_size for path in (db / ".profile").glob("rows-*.jsonl")))
        stopped.terminate()
    assert stopped.returncode != 0
    return db, run_slice(db)[0]


def test_a_slice_that_is_over_ends_before_the_next_stage(tmp_path):
    """Where no time is left nothing is measured, the campaign is not complete, and its state can be gone on with."""
    options = {"slice_s": 0.0, "total_s": 1.0, "device": "cpu", "dtypes": ("bf16",), "target_error": 0.03}
    options |= {"stages": parse_stages(DEFAULT_STAGES)}
    assert not Campaign(tmp_path, **options).run()
    assert Campaign(tmp_path, **options).results == {}


def test_what_the_total_leaves_no_time_for_is_said_and_the_campaign_is_complete(tmp_path):
    """Where no further slice may follow, every stage says that it was left out."""
    options = {"slice_s": 1.0, "total_s": 0.0, "device": "cpu", "dtypes": ("bf16",), "target_error": 0.03}
    found = Campaign(tmp_path, **options, stages=parse_stages(DEFAULT_STAGES))
    assert found.run()
    assert list(found.results) == list(STAGES)
    assert all("--total" in result["left_out"][0] for result in found.results.values())


def test_a_stage_at_its_cap_tells_what_it_has_and_the_next_one_comes(tmp_path):
    """The stages are those chosen, in that order; one without time ends with nothing, and the campaign is complete."""
    stages = [Stage(name="timers", cap_s=0.0), Stage(name="tests", cap_s=0.0)]
    options = {"slice_s": 3600.0, "total_s": 3600.0, "device": "cpu", "dtypes": ("bf16",), "target_error": 0.03}
    found = Campaign(tmp_path, stages=stages, **options)
    assert found.run()
    assert list(found.results) == ["timers", "tests"]
    assert found.results["timers"]["timed"] == 0
    assert len(found.results["timers"]["left_out"]) == 4


def test_a_stage_that_fails_says_why_and_the_next_one_comes(tmp_path):
    """What one stage runs into, here a file of its own that cannot be read, costs that stage alone."""
    (tmp_path / "campaign").mkdir()
    (tmp_path / "campaign" / "timers.parquet").write_bytes(b"no table")
    stages = [Stage(name="timers"), Stage(name="machine")]
    options = {"slice_s": 3600.0, "total_s": 3600.0, "device": "cpu", "dtypes": ("bf16",), "target_error": 0.03}
    found = Campaign(tmp_path, stages=stages, **options)
    assert found.run()
    assert "holds no comparisons of timers" in found.results["timers"]["failed"]
    assert "failed" not in found.results["machine"]


def test_stages_are_read_in_order_with_their_caps():
    """A name may have a cap; every stage is among the default's."""
    assert parse_stages("timers = 40s, profile") == (Stage(name="timers", cap_s=40.0), Stage(name="profile"))
    assert tuple(stage.name for stage in parse_stages(DEFAULT_STAGES)) == STAGES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stages", "warmup"), "--stages: 'warmup' is not among machine, self_test, tests, timers, products"),
        (("--stages", "timers,timers=4s"), "--stages: timers is there twice"),
        (("--stages", "timers=0s"), "--stages timers is '0s', must be a positive duration"),
        (("--families", "conv"), "--families: conv is not among gemm, attention"),
        (("--stages", "timers", "--energy-points", "4"), "--stages leaves joules and the profile out"),
        (("--stages", "timers", "--families", "gemm"), "--families cannot act: --stages leaves out products"),
        (("--stages", "products", "--target-error", "1"), "--target-error cannot act: --stages leaves the profile out"),
    ],
)
def test_a_campaign_refuses_stages_and_families_that_are_none(words, message, tmp_path):
    """One message, before anything is written."""
    done = CliRunner().invoke(campaign, ["--device", "cpu", "--db", str(tmp_path / "db"), *words])
    assert message in str(done.exception)
    assert not (tmp_path / "db").exists()


def test_a_command_that_ends_leaves_everything_as_one_file(finished):
    """Also one that was stopped: what it had measured lies in the archive beside the folder."""
    db, _ = finished
    with tarfile.open(archive_of(db)) as archive:
        assert f"{db.name}/campaign/state.json" in archive.getnames()


def test_a_worker_that_is_killed_within_a_stage_is_replaced_and_a_command_that_is_killed_leaves_an_archive(
    tmp_path, start, wait_until, has_ended
):
    """The next worker goes on with the stage; one whose command is gone begins no further stage, and tells none."""
    db = tmp_path / "db"
    command = [sys.executable, "-m", "profiler.campaign", *CAMPAIGN[:-2], "machine,timers,products", "--db", str(db)]

    def state():
        path = db / "campaign" / "state.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def is_in(stage, parent):
        found = state()
        return found.get("in_flight", {}).get("stage") == stage and found["told"]["parent"] == parent

    killed = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: is_in("timers", killed.pid))
    (first,) = workers_of(killed.pid)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: is_in("timers", killed.pid) and state()["starts"]["timers"]["deaths"] == 1)
    (second,) = workers_of(killed.pid)
    killed.kill()
    killed.wait()
    wait_until(lambda: has_ended(str(second)))
    with tarfile.open(archive_of(db)) as archive:
        packed = json.load(archive.extractfile(f"{db.name}/campaign/state.json"))
    assert "machine" in packed
    assert "products" not in state()
    summary, _ = run_slice(db, "machine,timers,products")
    assert summary["complete"]
    assert summary["timers"]["timed"] == 2 + 2
    assert summary["products"]["stored"] == 8


def workers_of(parent):
    """Return the ids of the processes that a command has started."""
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_slices_work_through_every_stage_and_each_goes_on_where_the_last_one_ended(finished):
    """Slices end with all stages told, comparisons and rows on disk, no point twice; one more changes nothing."""
    db, state = finished
    assert state["complete"]
    assert state["self_test"]["lines"]
    quantities = pq.read_table(db / "campaign" / "self_test.parquet").to_pylist()
    assert [row["rate"] > 0 for row in quantities] == [True, True]
    assert all(rate > 0 for rate in state["self_test"]["flop_per_s"].values())
    facts = json.loads((db / "campaign" / "machine.json").read_text())
    assert facts["without_nvml"] == "a CPU has no NVML"
    assert facts["distributions"]["torch"]
    assert not any("failed" in state[stage] for stage in STAGES)
    for stage in ("products", "small_ops", "attention", "joules", "clocks"):
        assert state[stage]["stored"] == state[stage]["points"] > 0
    assert state["formats"] == {"points": 0, "stored": 0, "statuses": {}, "left_out": state["formats"]["left_out"]}
    assert "--dtypes" in state["formats"]["left_out"][0]
    assert "no counter" in state["joules"]["left_out"][-1]
    assert state["anchors"]["compared"] == state["anchors"]["steps"] == 3
    assert state["timers"]["timed"] == state["timers"]["ops"] == 4
    assert state["profile"]["left_out"] or state["profile"]["fulfilled"]
    steps = pq.read_table(db / "campaign" / "steps.parquet").to_pylist()
    assert statistics.median(row["summed_s"] / row["measured_s"] - 1 for row in steps) == pytest.approx(
        state["anchors"]["median_error"]
    )
    timers = pq.read_table(db / "campaign" / "timers.parquet").to_pylist()
    assert all(row["cold_s"] > 0 and row["do_bench_s"] is None and row["note"] for row in timers)
    store = open_store(db, bundled=None)
    for family in ("gemm", "attention", "elementwise", "step"):
        rows = [row_identity(family, row) for row in store.read(family, statuses=None).to_pylist()]
        assert len(rows) == len(set(rows)) > 0
    again, talk = run_slice(db)
    assert {**again, "spent_s": None} == {**state, "spent_s": None}
    assert "==" not in talk


def test_a_campaign_without_a_gpu_is_one_message(tmp_path):
    """Without a GPU the campaign ends with code 2, a hint, and nothing written."""
    command = [sys.executable, "-m", "profiler.campaign", "--db", str(tmp_path / "db")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch sees no GPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "db").exists()
