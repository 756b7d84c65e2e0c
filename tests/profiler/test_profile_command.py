"""The profiler as a person runs it: real processes, real measurements, real deaths."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="measuring needs torch")

from costmodel.ops.op_types import Gemm
from costmodel.pricing.analytic_costs import LOG_HALF_WIDTH
from profiler.journal import Journal, only_run_in
from profiler.planning.expected_errors import FEWEST_BUY
from profiler.point import OpShape, Point
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store

GEMM = ["m", "n", "k", "scaling", "quantise", "dtype"]
FORMATS = (("bf16", "none"), ("fp8", "row"), ("w8a8", "row"))


@pytest.fixture
def manifest(tmp_path):
    """Write a small manifest with three GEMM formats, attention, and collectives over two ranks."""
    columns = list(FAMILIES["attention"].shape_columns)
    prefill = ["prefill", "gqa", 4, 2, 64, 64, 0, "bf16", 1, 64, 64, 0, 1, 0, 0, "bf16"]
    decode = ["decode", "gqa", 4, 2, 64, 64, 0, "bf16", 0, 0, 0, 4, 1, 128, 128, "bf16"]
    reduce = [["all_reduce", 2, 1, "memory", size, "bf16"] for size in (1024, 65536)]
    families = {
        "gemm": {
            "columns": GEMM,
            "rows": [[m, 256, 128, scaling, False, dtype] for m in (1, 4, 16, 64) for dtype, scaling in FORMATS],
        },
        "attention": {"columns": [*columns, "dtype"], "rows": [prefill, decode]},
        "collective": {"columns": ["kind", "ranks", "nodes", "level", "message_bytes", "dtype"], "rows": reduce},
    }
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps({"apex_shape_manifest": 1, "families": families}))
    return path


def options(manifest, db):
    return ["--device", "cpu", "--manifest", str(manifest), "--db", str(db), "--exhaustive"]


# What a run tells the one rank it starts.
ONLY_RANK = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
ONLY_RANK |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
TORN = "lines or marks of the journal were cut off or unreadable: their points are measured again"
PROFILE = [sys.executable, "-m", "simulator.cli", "profile"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "profiler"]


def run(command, **environment):
    """Run a command to its end."""
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def in_flight(start, wait_until, manifest, tmp_path):
    """Start a run on two ranks and wait until one has journalled its first row; returns its process and its folder."""
    db = tmp_path / "db"
    command = [*PROFILE, *options(manifest, db), "--nproc-per-node", "2"]
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: any(path.stat().st_size for path in (db / ".profile").glob("rows-*.jsonl")))
    return process, db


def keys(db):
    """All keys in the store, repeats kept."""
    store = open_store(db, bundled=None)
    found = []
    for name, family in FAMILIES.items():
        table = store.read(name, statuses=None).select(family.key_columns)
        found += [(name, *row.values()) for row in table.to_pylist()]
    return found


def test_two_torchrun_ranks_measure_a_manifest_and_a_stopped_run_resumes(in_flight, manifest):
    """A run ended by SIGTERM and started again has every point of the manifest exactly once, with its provenance."""
    first, db = in_flight
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate()
    assert first.returncode == 143, err
    assert "stopped by SIGTERM; the same command resumes" in out
    second = run([*TORCHRUN, *options(manifest, db), "--json"])
    assert second.returncode == 0, second.stderr
    found = keys(db)
    assert len(found) == len(set(found)) == 12 + 2 + 2
    store = open_store(db, bundled=None)
    table = store.read("gemm")
    assert set(table["backend"].to_pylist()) == {"torch.onednn", "torch.scaled_mm", "torch.int_mm"}
    assert all(
        low <= middle <= high
        for low, middle, high in zip(
            *(table[name].to_pylist() for name in ("latency_p10_s", "latency_s", "latency_p90_s")), strict=True
        )
    )
    outcome = json.loads(second.stdout.strip().splitlines()[-1])
    assert outcome["already"] + outcome["measured"] == len(found)
    runs = {row["run_id"]: row for row in store.runs().to_pylist()}
    assert set(table["run_id"].to_pylist()) <= set(runs)
    assert runs[outcome["run_id"]]["world_size"] == 2
    assert runs[outcome["run_id"]]["ended_at"] is not None


def test_a_killed_rank_is_replaced_and_loses_no_row(in_flight):
    """SIGKILL of one rank: the run starts again by itself, and ends with every point exactly once."""
    process, db = in_flight
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "a rank ended with SIGKILL; starting again (1/5)" in err
    assert "Traceback" not in err
    found = keys(db)
    assert len(found) == len(set(found)) == 12 + 2 + 2


def test_what_is_left_on_another_node_comes_home(start, manifest, tmp_path):
    """Two nodes with folders of their own: a row, a hung point and a torn mark on the second are stored, or told."""
    homes = [tmp_path / "node-0", tmp_path / "node-1"]
    sizes = {"n": 256, "k": 128, "scaling": "none", "quantise": False}
    done, hung = (
        Point(
            op=OpShape.of("gemm", dtype="bf16", m=m, **sizes),
            device="cpu",
            backend="torch.onednn",
            launch="eager",
            cache="cold",
        )
        for m in (7, 9)
    )
    with only_run_in(homes[1]):
        times = {"latency_s": 1e-3, "samples": 10, "status": "ok", "origin": "measured"}
        Journal(homes[1], 1).commit("gemm", "dead-run", [done.columns | times])
        Journal(homes[1], 1).begin(hung, "dead-run")
        Journal(homes[1], 1).hang()
        (homes[1] / ".profile" / "flight-2.json").write_text("")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    nodes = []
    for rank, home in enumerate(homes):
        place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
        env = {**os.environ, **{name: str(value) for name, value in place.items()}, "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-m", "profiler", *options(manifest, home), "--families", "gemm", "--json"]
        nodes.append(start(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    out, err = nodes[0].communicate()
    nodes[1].communicate()
    assert [node.returncode for node in nodes] == [0, 0], err
    outcome = json.loads(out)
    assert outcome["recovered"] == 2
    assert outcome["notes"] == [f"1 {TORN}"]
    found = keys(homes[0])
    assert len(found) == len(set(found)) == 12 + 2
    assert open_store(homes[0], bundled=None).read("gemm", statuses=["timeout"])["m"].to_pylist() == [9]
    assert keys(homes[1]) == []
    assert not [path.name for path in (homes[1] / ".profile").glob("[rf]*-*")]


def test_after_a_power_cut_a_run_goes_on_and_says_what_it_lost(run_apex, manifest, tmp_path, monkeypatch):
    """Torn marks and journals are told, a torn Parquet file is set aside; in the end each point is there once."""
    for name, value in ONLY_RANK.items():
        monkeypatch.setenv(name, value)
    command = ["profile", *options(manifest, tmp_path), "--families", "gemm", "--json"]
    assert run_apex(*command).returncode == 0
    (rows,) = (tmp_path / "cpu" / "gemm").glob("*.parquet")
    whole = rows.read_bytes()
    rows.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    (tmp_path / ".profile" / "flight-0.json").write_text("")
    (tmp_path / ".profile" / "deaths.json").write_text('{"[')
    (tmp_path / ".profile" / "rows-0.jsonl").write_text('{"family": "gemm", "run' + "\0" * 4096)
    damaged = run_apex(*command)
    assert damaged.returncode == 2
    aside = tmp_path / "quarantine" / "cpu" / "gemm" / rows.name
    assert "damaged or not Parquet: " in damaged.stderr
    assert f"moved to {aside}" in damaged.stderr
    assert "hint: run the command again to go on without these rows" in damaged.stderr
    assert aside.exists()
    outcome = json.loads(run_apex(*command).stdout)
    assert outcome["notes"] == [f"3 {TORN}"]
    assert (outcome["measured"], outcome["already"], outcome["recovered"]) == (12, 0, 0)
    found = keys(tmp_path)
    assert len(found) == len(set(found)) == 12


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--budget", "soon"], {}, "--budget is 'soon', must be a positive duration"),
        (["--budget", "0.1s"], {}, "--budget is '0.1s', below the 0.33 s of one point"),
        (["--device", "cpu", "--manifest", "gone.json"], {}, "gone.json: no such file"),
        (["--device", "cpu"], {"RANK": "0"}, "WORLD_SIZE"),
        (["--device", "cpu"], {"RANK": "3", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
                               "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK is 3, must be below WORLD_SIZE 2"),
        (["--device", "cpu"], {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
                               "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK is 'x', must be a whole number"),
        (["--device", "cpu", "--cache", "warm"], {}, "--cache is 'warm'"),
        (["--device", "cpu", "--prior", "h1000"], {}, "prior 'h1000': no such file, and no device with a bundled fit"),
        (["--device", "cpu", "--families", "conv"], {}, "--families: conv is not among gemm, attention"),
        (["--device", "cpu", "--device-name", "../../evil"], {}, "--device-name: device is '../../evil'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_with_a_hint(run_apex, arguments, environment, message, tmp_path):
    """A wrong option, manifest or environment ends with code 2 and one message, before anything is written."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        done = run_apex("profile", *arguments, "--db", tmp_path / "db")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path(tmp_path).rglob("*.parquet"))


def test_a_mistake_that_a_rank_finds_is_one_message_of_the_run(tmp_path):
    """A device that torch does not see ends the run as it ends the rank: code 2, one message, no rank started again."""
    done = run([*PROFILE, "--device", "cuda", "--db", str(tmp_path / "db")], CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("--device cuda: torch sees no GPU") == 1
    assert "Traceback" not in done.stderr
    assert not list(Path(tmp_path).rglob("*.parquet"))


@pytest.mark.parametrize("module", ["profiler", "profiler.campaign"])
@pytest.mark.parametrize(
    ("missing", "folder", "code", "message"),
    [("torch", "db", 2, "measuring needs torch"), ("", "/proc/nowhere", 1, "cannot be written")],
)
def test_no_torch_and_no_folder_are_messages_of_both_commands(  # noqa: PLR0917 - parameters of the cases
    module, missing, folder, code, message, tmp_path
):
    """Without torch, or with a folder that cannot be made, a run and a campaign end with their code and one message."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n" if missing else "")
    command = [sys.executable, "-m", module, "--device", "cpu", "--db", str(tmp_path / folder)]
    done = run(command, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "db").exists()


def test_a_sweep_over_clocks_that_cannot_be_locked_is_measured_once_and_says_so(run_apex, monkeypatch, tmp_path):
    """Without clocks to lock, one unlocked sweep is measured and the others are named as left out."""
    path = tmp_path / "shapes.json"
    gemm = {"columns": GEMM, "rows": [[m, 64, 64, "none", False, "bf16"] for m in (1, 16)]}
    path.write_text(json.dumps({"apex_shape_manifest": 1, "families": {"gemm": gemm}}))
    for name, value in ONLY_RANK.items():
        monkeypatch.setenv(name, value)
    done = run_apex("profile", *options(path, tmp_path), "--clocks", "1980,1410,810", "--json")
    assert done.returncode == 0, done.stderr
    notes = json.loads(done.stdout)["notes"]
    assert any("measuring unlocked" in note for note in notes)
    assert "left out: 1410, 810 MHz, which would be the same unlocked clock again" in notes
    table = open_store(tmp_path, bundled=None).read("gemm")
    assert table["clock_mhz"].to_pylist() == [None, None]


def test_a_dry_run_prices_the_plan_and_writes_nothing(run_apex, manifest, tmp_path):
    """The dry run counts the points per format and says what they can cost at most."""
    done = run_apex("profile", *options(manifest, tmp_path / "db"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "gemm        fp8       torch.scaled_mm" in done.stdout
    assert "time: at most" in done.stdout
    assert not (tmp_path / "db").exists()


def test_a_dry_run_expects_what_a_step_errs_by_once_the_budget_is_spent(run_apex, manifest, tmp_path):
    """Where the manifest says shares: now the analytic model's width, less with each label that a budget completes."""
    words = ["profile", "--device", "cpu", "--manifest", str(manifest), "--db", str(tmp_path / "db"), "--dry-run"]
    assert json.loads(run_apex(*words, "--json", "--budget", "1h").stdout)["step_errors"] is None
    document = json.loads(manifest.read_text())
    rows = [[m, 512, 128, "none", False, "bf16", share, share] for m, share in ((1, 0.0), (2, 0.0), (4, 0.5), (8, 0.5))]
    document["shares"] = {"gemm": {"columns": [*GEMM, "prefill_frac", "decode_frac"], "rows": rows}}
    manifest.write_text(json.dumps(document))

    def errors(budget):
        return json.loads(run_apex(*words, "--json", "--budget", budget).stdout)["step_errors"]

    unreached, reached = errors("0.4s"), errors("1h")
    assert unreached["now_log"] == unreached["then_log"] == reached["now_log"] == [LOG_HALF_WIDTH[Gemm]] * 2
    assert reached["then_log"] == pytest.approx([FEWEST_BUY["gemm"][0]] * 2)
    said = run_apex(*words, "--budget", "1h").stdout
    assert "expected then, in nine of ten cases: a prefill step to " in said
    assert f"(now {math.expm1(LOG_HALF_WIDTH[Gemm]):.1%}) and a decode step to " in said


def test_a_dry_run_says_what_the_budget_reaches_on_the_ranks_it_will_have(run_apex, manifest, tmp_path, monkeypatch):
    """Labels of six points and points in all, with collectives where there are two ranks, asked for or torchrun's."""
    document = json.loads(manifest.read_text())
    document["families"]["gemm"]["rows"] += [[m, 512, 128, "none", False, "bf16"] for m in (1, 2, 4, 8)]
    manifest.write_text(json.dumps(document))
    words = ["--device", "cpu", "--manifest", str(manifest), "--db", str(tmp_path / "db"), "--dry-run", "--json"]
    alone = json.loads(run_apex("profile", *words, "--budget", "1h").stdout)
    assert alone["reach"] == {"labels": 1, "of_labels": 5, "points": 18, "of_points": 18}
    asked = json.loads(run_apex("profile", *words, "--budget", "1h", "--nproc-per-node", "2").stdout)
    assert asked["ranks"] == 2
    assert asked["reach"] == {"labels": 1, "of_labels": 6, "points": 20, "of_points": 20}
    assert json.loads(run_apex("profile", *words).stdout)["reach"] is None
    short = run_apex("profile", *words[:-1], "--budget", "0.4s")
    assert "budget: 0.4 s reaches about 0 of 18 points, and the 6 that a fit needs of 0 of 5 labels" in short.stdout
    for name, value in (ONLY_RANK | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    assert json.loads(run_apex("profile", *words, "--budget", "1h").stdout) == asked
    monkeypatch.setenv("RANK", "1")
    assert run_apex("profile", *words).stdout == ""
