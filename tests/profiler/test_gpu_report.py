"""The page of a campaign: real rows of a small campaign on this CPU, and truths put beside them by a known factor."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="the campaign measures with torch")
pytest.importorskip("pandas", reason="the report joins rows with pandas")

from cluster_specs.load import load_cluster
from costmodel.families.all import OP_FAMILIES, op_of_sizes
from costmodel.ops.roofline import roofline
from costmodel.power_model import PowerModel
from profiler.campaign.__main__ import campaign
from profiler.campaign.timers import load_timers, save_timers
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store
from simulator.engine_profiles.bundled_profiles import newest_bundled

REPOSITORY = Path(__file__).parents[2]
PEER = 1.25  # what another tool measured, over our time
DRAWN = 1.6  # what a kernel drew, over what the model says
PEER_ROW = {"framework": "vllm-0.24.0", "origin": "imported:peer", "run_id": "peer"}
WORKER = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
WORKER |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
OPTIONS = ("--device", "cpu", "--dtypes", "bf16", "--slice", "1h", "--total", "1h")


def report(*arguments):
    """Run the program that writes the page."""
    command = [sys.executable, "-m", "benchmarks.gpu_report", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def section(page, title):
    """Return the text below one title."""
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Run a campaign without its profile, and return its folder."""
    db = tmp_path_factory.mktemp("campaign") / "db"
    stages = "machine,timers,products,small_ops,attention,anchors,joules,clocks"
    done = CliRunner(env=WORKER).invoke(campaign, [*OPTIONS, "--stages", stages, "--db", str(db)])
    assert done.exit_code == 0, done.output
    return db


@pytest.fixture(scope="module")
def page(measured, tmp_path_factory):
    """Put known truths beside the measured rows, and return the page that is made of both."""
    folder = tmp_path_factory.mktemp("beside")
    store, cluster = open_store(measured, bundled=None), load_cluster("cpu-2")
    imported = open_store(folder / "imported", bundled=None)
    for family in ("gemm", "attention"):
        rows = [row | PEER_ROW | {"latency_s": PEER * row["latency_s"]} for row in store.read(family).to_pylist()]
        imported.append(family, rows, "peer")
    add_joules(store, cluster)
    timed = [
        {"do_bench_s": 1.5 * row.cold_s, "do_bench_cudagraph_s": 0.5 * row.hot_s}
        for row in load_timers(measured / "campaign" / "timers.parquet")
    ]
    add_peers(measured / "campaign" / "timers.parquet", timed)
    run = store.runs().to_pylist()[-1]
    clocks = {"sustained_clocks": json.dumps({"bf16": 1500.0}), "idle_power_w": 30.0}
    store.append_run(run | clocks | {"run_id": "clocks"})
    path = folder / "page.md"
    done = report("--db", measured, "--imported", folder / "imported", "--out", path)
    assert done.returncode == 0, done.stderr
    return path.read_text()


def add_joules(store, cluster):
    """Write rows of other sizes that drew a known multiple of what the model says, and a clock in bursts."""
    model = PowerModel.from_device(cluster.device)
    for family in ("gemm", "elementwise"):
        (row, *_) = store.read(family).to_pylist()
        column = {"gemm": "m", "elementwise": "rows"}[family]
        rows = []
        for size in (2048, 2560, 3072, 3584, 4096, 5120, 6144):
            shape = {name: row[name] for name in FAMILIES[family].shape_columns} | {column: size}
            if family == "elementwise":
                shape["io_bytes"] = row["io_bytes"] // row["rows"] * size
            op = op_of_sizes(family, shape | {"dtype": row["dtype"]})
            latency_s = float(40 * np.max(roofline(op, cluster).floor_s))
            watts = float(DRAWN * model.op_energy_j(op, roofline(op, cluster), np.array(latency_s)) / latency_s)
            told = {"latency_s": latency_s, "power_w": watts, "energy_j": watts * latency_s, "sm_clock_mhz": 1800.0}
            rows.append(row | shape | told | {"cache": OP_FAMILIES[family].cache, "run_id": "joules"})
        store.append(family, rows, "joules")


def add_peers(path, timed):
    """Write what a peer's timer said of the same kernels."""
    rows = load_timers(path)
    changed = [type(row)(**{name: getattr(row, name) for name in ("op", "backend", "cold_s", "hot_s")}, **peer)
               for row, peer in zip(rows, timed, strict=True)]  # fmt: skip
    save_timers(changed, path)


def test_a_peer_timer_is_held_against_ours_in_the_state_it_leaves_operands_in(page):
    """`do_bench` against ours cold, the graph's against ours hot."""
    said = section(page, "Our timer against `do_bench`")
    assert "`do_bench` over ours in 4 kernels: median 1.500, 1.50 to 1.50." in said
    assert "`do_bench_cudagraph` over ours in 4 kernels: median 0.500, 0.50 to 0.50." in said


def test_rows_of_the_same_kernel_and_size_give_their_ratio(page, measured):
    """Every own product and attention has its pair; ours over theirs is the factor that was put there."""
    said = section(page, "Our rows against imported rows of the same kernel")
    store = open_store(measured, bundled=None)
    pairs = sum(
        len({tuple(row[name] for name in FAMILIES[family].key_columns) for row in rows if row["run_id"] != "joules"})
        for family in ("gemm", "attention")
        for rows in [store.read(family).to_pylist()]
    )
    assert f"**{pairs} pairs: median {1 / PEER:.3f}, 0% within 5%.**" in said
    assert set(re.findall(r"\| (\d\.\d{3}) \| (\d\.\d{3}) \| (\d\.\d{3}) \|", said)) == {(f"{1 / PEER:.3f}",) * 3}
    assert section(page, "Our kernels against those of the engine").strip() == "No op was measured on two kernels."


def test_cold_rows_are_set_against_hot_ones_of_the_same_kernel(page, measured):
    """The points of the table are those that were measured both ways."""
    said = section(page, "Cold operands against hot ones")
    counted = sum(int(line.split("|")[6]) for line in said.splitlines() if line.startswith(("| gemm", "| attention")))
    state = json.loads((measured / "campaign" / "state.json").read_text())
    assert counted == (state["products"]["points"] + 2 * 2) // 2  # of attention, a prompt and a decode in both states


def test_watts_are_held_against_the_model_and_its_constants_told(page):
    """A model that says too little by a known factor is told as off by that factor, and what a fit would make of it."""
    said = section(page, "Measured watts against the power model")
    assert f"**14 rows with joules: the model in use is off by {1 - 1 / DRAWN:.1%} in the median" in said
    assert said.count(f"| {1 / DRAWN - 1:+.1%} |") == 14
    assert "| awake power, W |" in said


def test_prices_and_constants_that_would_change_are_told(page):
    """Every kernel that was measured has a line, with what priced it so far; so have idle power and the slowdown."""
    prices = section(page, "Prices that would change")
    assert "| gemm | bf16 | torch.onednn | analytic |" in prices
    assert "nan" not in prices
    constants = section(page, "Constants that would change")
    assert "| 30 |" in next(line for line in constants.splitlines() if "idle_w" in line)
    slowdown = next(line for line in constants.splitlines() if "slowdown_frac" in line)
    assert f"of {newest_bundled('vllm')}, bf16" in slowdown
    assert "| 0.2 |" in slowdown
    assert "1800 MHz in bursts of 7 products, 1500 MHz after seconds" in slowdown


def test_the_page_says_what_stages_could_not_do_and_what_would_prove_it_of_use(page):
    """A rehearsal is called one; the commands that judge a campaign against servers stand at its end."""
    assert "**A rehearsal on a CPU.**" in page
    assert "| tests | not reached |" in page
    assert "no counter that NVML reads" in page
    assert "3 steps: median error of the sum" in page
    assert "apex db merge --db build/with" in page
    assert page.rstrip().endswith("--costs build/with.fit.parquet\n```")


def test_a_page_is_not_lost_and_a_rehearsal_is_no_page_of_a_gpu(measured, tmp_path):
    """Without a campaign a page with numbers stays; the documentation's page takes no numbers of a CPU."""
    path = tmp_path / "page.md"
    assert report("--db", tmp_path / "none", "--out", path).returncode == 0
    assert "Not measured yet" in path.read_text()
    path.write_text("numbers")
    assert report("--db", tmp_path / "none", "--out", path).returncode == 1
    assert path.read_text() == "numbers"
    refused = report("--db", measured)
    assert refused.returncode == 1
    assert "a rehearsal on a CPU" in refused.stderr
    assert "Not measured yet" in (REPOSITORY / "docs" / "measured_gpu.md").read_text()
