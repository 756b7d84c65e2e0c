"""A plan simulated part by part says what the same plan says of the whole workload, in bounded memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from simulator.cli import apex
from simulator.commands.stream_option import load_parts
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.outputs.requests import request_table
from simulator.outputs.tables import write_tables
from simulator.plan.plan import parse_plan
from simulator.plan.pool_plan import parse_layout
from simulator.results.log_histogram import RELATIVE_ERROR
from simulator.results.objective import parse_slo
from simulator.serving import Serving, StartedPlan
from simulator.simulate import SimulatedPlan, replay, with_interval
from simulator.streaming import replay_stream
from simulator.workload.parse import parse_workload
from simulator.workload.parse_parts import may_hold_more, parse_parts
from simulator.workload.parts import NotStreamableError
from simulator.workload.traces.own_files import write_trace

TEXT = "synthetic:chat,rate=60,n=900,seed=4"
SLO = parse_slo(["ttft_s<=0.03"])
RUN = ["simulate", "--model", "llama-3.2-1b", "--cluster", "h100-sxm-8", "--costs", "analytic"]


def serve(engine: str, **overrides: Any) -> Serving:
    """Serve a small model on eight devices."""
    cluster = load_cluster("h100-sxm-8")
    return Serving(
        model=load_model("llama-3.2-1b"),
        cluster=cluster,
        profile=load_profile(engine),
        costs=lambda clock: choose_costs(Path("analytic"), cluster, clock),
        overrides=Overrides(**overrides),
    )


def started(serving: Serving, plan: str, workload: Any) -> StartedPlan:
    """StartedPlan a plan that can start."""
    start = serving.start(parse_plan(plan), workload)
    assert isinstance(start, StartedPlan)
    return start


def both(
    engine: str, plan: str, part_requests: int, requests_out: Path, **overrides: Any
) -> tuple[SimulatedPlan, SimulatedPlan]:
    """Simulate whole and in parts; the requests of the latter go to a file."""
    serving = serve(engine, **overrides)
    workload, parts = parse_workload(TEXT), parse_parts(TEXT, part_requests=part_requests)
    whole = with_interval(serving, replay(serving, started(serving, plan, workload), workload, SLO), workload, SLO)
    start = started(serving, plan, parts)
    streamed = write_tables(
        requests_out,
        lambda write: replay_stream(serving, start, parts, SLO, on_part=lambda part: write(request_table(part))),
    )
    return whole, streamed


def flat(values: Any, path: str = "") -> dict[str, float]:
    """Every number by its path."""
    if isinstance(values, dict):
        return {key: value for name, inner in values.items() for key, value in flat(inner, f"{path}.{name}").items()}
    return {path.removeprefix("."): values}


CASES = [
    ("vllm-0.33", "dp8", {}),
    ("vllm-0.33", "dp2-pp2-tp2", {}),
    ("vllm-0.33", "dp2", {"num_gpu_blocks": 460}),  # preempts
    ("vllm-0.33", "dp4", {"router": "least_outstanding"}),
    ("sglang-0.5", "dp4", {"num_gpu_blocks": 8000}),
    ("vllm-0.6", "dp4", {}),
    ("tensorrt-llm-1.0", "dp4", {}),
    ("orca", "dp4", {}),
]


@pytest.mark.parametrize("part_requests", [64, 700])
@pytest.mark.parametrize(("engine", "plan", "overrides"), CASES)
def test_parts_say_what_the_whole_says(
    engine: str, plan: str, overrides: dict[str, Any], part_requests: int, tmp_path: Path
) -> None:
    """Counts, sums and times are equal to the bit, means to rounding, quantiles within the stated error.

    So are intervals, requests' own figures, limits and memory, under every scheduler and router.
    """
    whole, streamed = both(engine, plan, part_requests, tmp_path / "requests.parquet", **overrides)
    expected, found = flat(whole.metrics), flat(streamed.metrics)
    assert found.keys() == expected.keys()
    means = {path for path in expected if path.endswith("_s.mean")}
    assert len(streamed.approximate) == 20
    for path, value in expected.items():
        if path in streamed.approximate:
            assert found[path] == pytest.approx(value, rel=RELATIVE_ERROR * (1 + 1e-9), abs=1e-12), path
        elif path in means:
            assert found[path] == pytest.approx(value, rel=1e-12), path
        elif path == "kv_use_frac":  # an integral, taken linear over each stretch of decode steps: parts cut stretches
            assert found[path] == pytest.approx(value, rel=1e-4), path
        else:
            assert found[path] == value, path
    assert whole.interval is not None
    assert streamed.interval is not None
    assert streamed.interval.keys() == whole.interval.keys()
    for path, ends in whole.interval.items():
        assert streamed.interval[path] == pytest.approx(ends, rel=RELATIVE_ERROR * (1 + 1e-9), abs=1e-12), path
    assert streamed.start.limits == whole.start.limits
    assert streamed.start.memory == whole.start.memory
    assert streamed.launch == whole.launch
    assert whole.run is not None
    written = pq.read_table(tmp_path / "requests.parquet").sort_by("request")
    assert written.equals(request_table(whole.run))


def test_a_part_of_the_requests_is_a_row_group(tmp_path: Path) -> None:
    """The file of requests is written as the run goes on, not kept for its end."""
    both("vllm-0.33", "dp8", 100, tmp_path / "requests.parquet")
    file = pq.ParquetFile(tmp_path / "requests.parquet")
    assert file.metadata.num_row_groups == 9
    assert file.schema_arrow.metadata[b"apex_table"] == b"requests"


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "synthetic:isl=64-512,osl=20,arrivals=gamma,cv=3,rate=5,n=901,seed=9",
        "synthetic:code,arrivals=constant,rate=5,n=300",
        "synthetic:code,arrivals=burst,n=300",
        "synthetic:like=chat-synthetic.csv,rate=3,n=500",
        "replay:trace=chat-synthetic.csv",
        "chat-synthetic",
    ],
)
def test_parts_hold_the_requests_of_the_whole(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid end to end, scaled and cut, parts are the whole to the bit, and so are the figures a plan starts from."""
    monkeypatch.chdir(tmp_path)
    assert (
        CliRunner().invoke(apex, ["trace", "generate", "synthetic:chat,n=400", "-o", "chat-synthetic.csv"]).exit_code
        == 0
    )
    scaling: dict[str, Any] = {"rate_scale": 1.7, "length_scale": (1.5, 0.5), "limit": 250}
    whole, parts = parse_workload(text, **scaling), parse_parts(text, part_requests=64, **scaling)
    assert max(map(len, parts)) == 64
    assert len(parts) == len(whole) == 250
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert joined.tolist() == getattr(whole, name).tolist()
    for name in ("name", "longest_tokens", "mean_prompt_tokens", "mean_context_tokens", "notes"):
        assert getattr(parts, name) == getattr(whole, name)


def test_a_plan_that_needs_all_requests_is_refused_by_the_library_too() -> None:
    """Ranks that step together are not served as if they were replicas."""
    serving = Serving(
        model=load_model("deepseek-v3"),
        cluster=(cluster := load_cluster("h200-sxm-8")),
        profile=load_profile("vllm-0.33"),
        costs=lambda clock: choose_costs(Path("analytic"), cluster, clock),
    )
    parts = parse_parts("synthetic:chat,n=20")
    start = started(serving, "attn.dp8-moe.ep8", parts)
    with pytest.raises(NotStreamableError, match="step together"):
        replay_stream(serving, start, parts)


REFUSED = [
    (["--plan", "dp8", "--trace", "closed:isl=64,osl=8,concurrency=4"], "a closed loop sends a request when another"),
    (["--plan", "dp8", "--trace", "sessions:chat,n=20"], "turns follow the answers"),
    (["--plan", "dp8", "--trace", "groups:chat,groups=2,prompts=2,system=64,n=9"], "its prompts share prefixes"),
    (["--plan", "dp8", "--trace", "synthetic:chat,max_concurrency=4"], "a client with a concurrency or a time-out"),
    (["--plan", "dp8", "--trace", "synthetic:chat,timeout_s=4"], "a client with a concurrency or a time-out"),
    (["--plan", "dp8", "--trace", "prefixed.jsonl"], "its prompts share prefixes"),
    (["--plan", "dp8", "--trace", "turns.jsonl"], "turns follow the answers"),
    (["--plan", "dp8", "--trace", "loop.jsonl"], "a client with a concurrency of 3"),
    (["--plan", "dp8", "--trace", "plain.jsonl", "--sort"], "--sort puts all requests in order"),
    (["--plan", "prefill.dp4+decode.dp4", "--trace", "plain.jsonl"], "from one pool to the other"),
    (["--plan", "dp8", "--trace", "plain.jsonl", "--speculative-tokens", "2"], "drafts of speculative decoding"),
    (["--plan", "dp8", "--trace", "plain.jsonl", "--iterations-out", "i.parquet"], "they keep every step"),
    (["--plan", "dp8", "--trace", "plain.jsonl", "--chrome-trace", "t.json"], "they keep every step"),
]


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write small traces, each with something that needs all requests at once, into the current folder."""
    monkeypatch.chdir(tmp_path)
    record = {"arrival_s": 0.5, "prompt_tokens": 64, "output_tokens": 4}
    loop = {"apex_workload": 1, "client": {"concurrency": 3}}
    for name, records in {
        "plain": [record, record],
        "prefixed": [{"apex_workload": 1, "block_tokens": 16}, {**record, "prefix_ids": [1, 2]}],
        "turns": [{**record, "after": -1, "think_s": 0.0}, {**record, "after": 0, "think_s": 1.0}],
        "loop": [loop, record, record],
    }.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))


@pytest.mark.usefixtures("traces")
@pytest.mark.parametrize(("arguments", "reason"), REFUSED)
def test_what_needs_all_requests_is_refused_by_name(arguments: list[str], reason: str) -> None:
    """--stream on a client that waits, shared prefixes, pools, drafts or logs of steps is one message that says so."""
    refusal = CliRunner().invoke(apex, [*RUN, *arguments, "--stream"]).exception
    assert isinstance(refusal, NotStreamableError)
    assert "cannot be streamed: " in str(refusal)
    assert reason in str(refusal)
    assert refusal.hint


@pytest.mark.usefixtures("traces")
def test_prefixes_that_nothing_caches_do_not_keep_a_trace_from_being_streamed() -> None:
    """With the prefix cache off, prompts that share blocks are prompts like others."""
    arguments = ["--plan", "dp8", "--trace", "prefixed.jsonl", "--no-prefix-caching", "--json"]
    whole, streamed = (CliRunner().invoke(apex, [*RUN, *arguments, *more]) for more in ([], ["--stream"]))
    assert json.loads(whole.stdout)["metrics"]["steps"] == json.loads(streamed.stdout)["metrics"]["steps"]


@pytest.mark.usefixtures("traces")
def test_the_answer_says_what_is_approximate() -> None:
    """The table, the JSON and a note name the error; a limit nearer than it is not told met or broken in silence."""
    arguments = [*RUN, "--plan", "dp8", "--trace", "plain.jsonl", "--stream"]
    value = json.loads(CliRunner().invoke(apex, [*arguments, "--json"]).stdout)["metrics"]["ttft_s"]["p99"]
    done = CliRunner().invoke(apex, [*arguments, "--slo", f"ttft_s.p99<={value * 1.0005}"])
    assert "streamed: p50 to p99 are within 0.1 %" in done.stdout
    assert "is within 0.1 % of the result: --no-stream tells which side it is on" in done.stderr
    facts = json.loads(CliRunner().invoke(apex, [*arguments, "--json"]).stdout)
    assert facts["approximate"]["relative_error_frac"] == RELATIVE_ERROR
    assert "ttft_s.p99" in facts["approximate"]["metrics"]
    assert "ttft_s.mean" not in facts["approximate"]["metrics"]


def test_workloads_beyond_two_million_are_streamed_unless_they_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --stream the number of requests decides; what needs all of them at once is said and left whole."""
    long, short = (f"synthetic:isl=1,osl=1,arrivals=burst,n={count}" for count in (2_000_001, 2_000_000))

    def opened(trace: str, plan: str = "dp8", *, stream: bool | None = None) -> int | None:
        reading = {"rate_scale": 1.0, "length_scale": (1.0, 1.0), "limit": None, "trace_format": "auto"}
        rest = {"time_unit": None, "block_tokens": None, "columns": {}, "sort": False, "turns": "recorded"}
        parts = load_parts(
            trace,
            stream=stream,
            layout=parse_layout(plan),
            reading={**reading, **rest, "result": None, "images": None, "audio_s": None},
            serving={"speculative_tokens": None, "prefix_caching": None},
        )
        return None if parts is None else len(parts)

    assert opened(long) == 2_000_001
    assert opened(short) is None
    assert opened(short, stream=True) == 2_000_000
    assert opened(long, stream=False) is None
    assert capsys.readouterr().err == ""
    assert opened(long, "attn.dp8-moe.ep8") is None
    assert "note: simulated whole: plan attn.dp8-moe.ep8 cannot be streamed" in capsys.readouterr().err


@pytest.mark.usefixtures("traces")
def test_long_workloads_are_told_without_reading_them() -> None:
    """The settings of a generator, the rows of Parquet and the lines of text say whether a trace may be long."""
    assert may_hold_more("synthetic:chat,n=101", 100)
    assert not may_hold_more("synthetic:chat,n=100", 100)
    assert not may_hold_more("synthetic:chat,n=101", 100, limit=100)
    assert not may_hold_more("closed:isl=64,osl=8,concurrency=400", 100)
    assert may_hold_more("plain.jsonl", 1)
    assert may_hold_more("replay:trace=plain.jsonl", 1)
    assert not may_hold_more("plain.jsonl", 2)
    for name in ("t.csv", "t.parquet", "t.jsonl"):
        write_trace(parse_workload("synthetic:chat,n=101"), name)
        assert may_hold_more(name, 100)
        assert not may_hold_more(name, 102)
