"""One-line workload texts and the bundled trace."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulator.workload
from cluster_specs.errors import UserError
from simulator.workload.parse import BUNDLED_TRACES, parse_workload
from simulator.workload.traces.own_files import write_trace
from simulator.workload.workload import CappedLoop, ClosedLoop

DATA = Path(simulator.workload.__file__).parent / "data"


@pytest.mark.parametrize("name", BUNDLED_TRACES)
def test_bundled_trace_is_what_its_text_generates(name: str, tmp_path: Path) -> None:
    """The bundled file is the output of our own generator, byte for byte."""
    write_trace(parse_workload(BUNDLED_TRACES[name]), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (DATA / f"{name}.csv").read_bytes()


def test_every_data_file_is_named() -> None:
    """No trace lies in the package without a name and a recipe."""
    assert {path.stem for path in DATA.iterdir()} == set(BUNDLED_TRACES)


def test_bundled_trace_is_found_by_name_and_scales() -> None:
    """The name alone gives the workload, and rate, lengths and limit apply."""
    workload = parse_workload("chat-synthetic")
    assert len(workload) == 1000
    cut = parse_workload("chat-synthetic", rate_scale=2.0, length_scale=(0.5, 1.0), limit=10)
    assert len(cut) == 10
    np.testing.assert_allclose(cut.arrival_s * 2, workload.arrival_s[:10])


def test_closed_loop_text_is_the_benchmark_client() -> None:
    """closed: fills in the public client's prompts per slot, range and warm-up."""
    workload = parse_workload("closed:isl=1024,osl=128,concurrency=8")
    assert workload.client == ClosedLoop(concurrency=8, warmup=16)
    assert len(workload) == 8 * (10 + 2)
    assert 819 <= workload.prompt_tokens.min() <= workload.prompt_tokens.max() <= 1024


def test_length_settings_choose_the_distribution() -> None:
    """A number is fixed, a range uniform, a number with _cv lognormal; they overrule the named mix."""
    workload = parse_workload("synthetic:code,n=300,isl=100-120,osl=64,cv=2")
    assert (workload.prompt_tokens.min(), workload.prompt_tokens.max()) == (100, 120)
    assert set(workload.output_tokens.tolist()) == {64}
    spread = parse_workload("synthetic:isl=100,isl_cv=0.5,osl=9,n=300").prompt_tokens
    assert spread.std() > 25


def test_lengths_of_a_trace_under_other_arrivals(tmp_path: Path) -> None:
    """like= draws (prompt, output) pairs of a trace; trace= offers its very requests in a closed loop."""
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,11,1\n5,22,2\n9,33,3\n")
    drawn = parse_workload(f"synthetic:like={path},rate=4,n=50,cv=2,seed=3")
    pairs = set(zip(drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True))
    assert pairs == {(11, 1), (22, 2), (33, 3)}
    assert len(drawn) == 50
    closed = parse_workload(f"closed:trace={path},concurrency=2")
    assert closed.client == ClosedLoop(concurrency=2)
    assert closed.prompt_tokens.tolist() == [11, 22, 33]
    assert closed.arrival_s.tolist() == [0.0, 0.0, 0.0]


def test_limit_cuts_sessions_consistently() -> None:
    """A cut workload keeps its arrays, blocks and links of one length."""
    workload = parse_workload("sessions:chat,n=20,turns=3,system=64", limit=15)
    assert len(workload) == 15
    assert workload.prefix is not None
    assert workload.after is not None
    assert len(workload.prefix.offsets) == 16
    assert workload.prefix.offsets[-1] == len(workload.prefix.ids)
    assert len(workload.after) == 15


def test_file_options_reach_the_reader(tmp_path: Path) -> None:
    """A path goes to the trace reader with the reading options."""
    path = tmp_path / "t.jsonl"
    records = [{"timestamp": t, "input_length": 9, "output_length": 2, "hash_ids": [1]} for t in (5.0, 1.0)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert parse_workload(str(path), time_unit="s", sort=True).arrival_s.tolist() == [0.0, 4.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope.jsonl", "no such trace file, bundled trace or generator"),
        ("synthetik:chat", "no such trace file, bundled trace or generator"),
        ("synthetic:", "isl is missing"),
        ("synthetic:chat,rate", "'rate' is not key=value"),
        ("synthetic:chat,rate=fast", "rate is 'fast', must be a number"),
        ("synthetic:chat,n=1.5", "n is '1.5', must be a whole number"),
        ("synthetic:chat,n=1,n=2", "n is given twice"),
        ("synthetic:chat,rat=2", "setting 'rat' is not known"),
        ("synthetic:chat,isl=-5", "isl is '-5', must be a length"),
        ("synthetic:chat,isl=1-", "isl is '1-', must be a length"),
        ("synthetic:chat,arrivals=weekly", "arrival process 'weekly' is not known"),
        ("synthetic:poetry", "length mix 'poetry' is not known"),
        ("closed:isl=10,osl=10", "concurrency is missing"),
        ("closed:isl=10,osl=10,concurrency=4,draw=dice", "length draw 'dice' is not known"),
        ("synthetic:chat,max_concurrency=0", "max_concurrency is 0, must be >= 1"),
        ("synthetic:chat,timeout_s=0", "timeout_s is 0, must be above 0"),
        ("replay:timeout_s=3", "trace is missing"),
        ("replay:trace=nope.csv,timeout_s=3", "nope.csv: no such file"),
        ("sessions:chat,n=0", "number of requests is 0"),
        ("synthetic:chat,n=99999999999", "number of requests is 99999999999, must be <= 8000000"),
        ("synthetic:chat,n=" + "9" * 5000, "n is '9999.*must be a whole number"),
        ("synthetic:isl=" + "9" * 5000 + ",osl=1", "isl is '9999.*must be a length"),
        ("synthetic:isl=99999999999,osl=1", "fixed length is 99999999999 tokens, must be <= 20000000"),
        ("synthetic:chat,seed=99999999999", "seed is 99999999999, must be 0 to 4294967295"),
        ("closed:isl=9,osl=9,concurrency=99999999", "concurrency 99999999 x .*must be <= 8000000 requests"),
        ("closed:isl=9,osl=9,concurrency=9,seed=99999999999", "seed is 99999999999"),
        ("sessions:chat,turns=1e18", "mean number of turns is 1e.18, must be <= 10000"),
        ("sessions:chat,n=2000000,turns=900", "sessions have .* turns, must be <= 8,000,000"),
        ("groups:groups=10,prompts=10,isl=5,osl=5", "system is missing"),
        ("groups:groups=0,prompts=10,system=5,isl=5,osl=5", "groups is 0, must be 1 to"),
        ("groups:groups=9999,prompts=9999,system=5,isl=5,osl=5", "9999 groups of 9999 prompts, must be <="),
        ("groups:groups=2,prompts=2,system=9999999,isl=5,osl=5,n=100", "at most 16,000,000 can be told apart"),
        ("synthetic:like=nope.csv,n=3", "nope.csv: no such file"),
        ("synthetic:like=nope.csv,isl=3", "nope.csv: no such file"),
        ("closed:trace=nope.csv,concurrency=2", "nope.csv: no such file"),
    ],
)
def test_bad_text_is_refused_with_the_setting_named(text: str, message: str) -> None:
    """A mistyped workload names the setting, its value and what it must be."""
    with pytest.raises(UserError, match=message):
        parse_workload(text)


def test_a_replayed_file_is_read_as_the_options_say(tmp_path: Path) -> None:
    """replay: and closed: take a file with its reading options, and the client's habits beside it."""
    path = tmp_path / "t.csv"
    path.write_text("t,i,o\n0,5,5\n500,5,5\n")
    reading: dict[str, Any] = {"columns": {"time": "t", "prompt": "i", "output": "o"}, "time_unit": "ms"}
    workload = parse_workload(f"replay:trace={path},timeout_s=30,max_concurrency=4", **reading)
    assert workload.arrival_s.tolist() == [0.0, 0.5]
    assert (workload.client, workload.client_timeout_s) == (CappedLoop(concurrency=4), 30.0)
    closed = parse_workload(f"closed:trace={path},concurrency=2", **reading)
    assert (closed.client, closed.client_timeout_s) == (ClosedLoop(concurrency=2), None)
    with pytest.raises(UserError, match="no format holds a client's time-out"):
        write_trace(workload, tmp_path / "x.jsonl")


def test_reading_options_are_refused_for_generators() -> None:
    """An option that would do nothing is not ignored."""
    with pytest.raises(UserError, match="a generator takes no sort"):
        parse_workload("synthetic:chat", sort=True)
