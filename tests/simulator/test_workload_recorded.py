"""Files of benchmark clients: their requests replayed as they were sent, and the times measured for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.errors import UserError
from profiles_db.recordings.files import _MATCHES
from profiles_db.recordings.tools import TOOLS
from simulator.workload.traces.read_trace import read_measured, read_trace
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop

NS = 1_759_000_000_000_000_000
S = 1_759_000_000.0


def serve(**changes: Any) -> dict[str, Any]:
    return {
        "duration": 9.0, "completed": 3, "total_input_tokens": 60, "total_output_tokens": 15, "request_rate": 2.0,
        "max_concurrency": None, "input_lens": [10, 20, 30], "output_lens": [5, 4, 6], "ttfts": [0.1, 0.2, 0.3],
        "itls": [[0.01] * 4, [0.01] * 3, [0.01] * 5], "errors": ["", "", ""], "start_times": [100.0, 100.5, 101.5],
        **changes,
    }  # fmt: skip


def sglang(**changes: Any) -> dict[str, Any]:
    result = serve(request_rate=float("inf"), total_output_tokens_retokenized=15, **changes)
    del result["start_times"]
    return result


def aiperf(number: int, start_s: float, **changes: Any) -> dict[str, Any]:
    metadata = {"session_num": number, "turn_index": 0, "request_start_ns": NS + round(start_s * 1e9),
                "benchmark_phase": "profiling", "was_cancelled": False}  # fmt: skip
    metrics = {
        "input_sequence_length": {"value": 10 * (number + 1), "unit": "tokens"},
        "output_sequence_length": {"value": 4 + number, "unit": "tokens"},
        "time_to_first_token": {"value": 100.0, "unit": "ms"},
        "request_latency": {"value": 0.5, "unit": "sec"},
    }
    return {"metadata": {**metadata, **changes.pop("metadata", {})}, "metrics": metrics, "error": None, **changes}


def life(number: int, start_s: float, **changes: Any) -> dict[str, Any]:
    info = {
        "input_tokens": 10 * (number + 1),
        "output_tokens": 4 + number,
        "output_token_times": [50.1 + start_s, 50.5 + start_s],
    }
    return {"start_time": 50.0 + start_s, "end_time": 50.5 + start_s, "request": "{}", "response": "",
            "info": info, "error": None, **changes}  # fmt: skip


def new_life(number: int, start_s: float) -> dict[str, Any]:
    info = life(number, start_s)["info"]
    return life(number, start_s, info={
        "request_metrics": {"text": {"input_tokens": info["input_tokens"]}}, "input_tokens": info["input_tokens"],
        "response_metrics": {"output_tokens": info["output_tokens"], "output_token_times": info["output_token_times"]},
    })  # fmt: skip


def guided(number: int, start_s: float, due_s: float) -> dict[str, Any]:
    return {
        "info": {"timings": {"targeted_start": S + due_s}}, "request_start_time": S + start_s,
        "request_end_time": S + start_s + 0.5, "prompt_tokens": 10 * (number + 1), "output_tokens": 4 + number,
        "time_to_first_token_ms": 100.0,
    }  # fmt: skip


def sim_bench(number: int, start_s: float) -> dict[str, Any]:
    return {
        "input_toks": 10 * (number + 1), "output_toks": 4 + number, "arrival_time": S + start_s,
        "queued_ts": 500.0, "first_token_ts": 500.1, "last_token_ts": 500.5,
    }  # fmt: skip


def report(strategy: dict[str, Any], *entries: dict[str, Any], total: int | None = None) -> dict[str, Any]:
    return {
        "config": {"strategy": strategy},
        "requests": {"successful": list(entries), "incomplete": [], "errored": []},
        "metrics": {"request_totals": {"total": len(entries) if total is None else total}},
    }


Save = Callable[[str, Any], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        lines = content if name.endswith("jsonl") else [content]
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
        return path

    return write


def test_clients_are_known_by_the_names_of_their_readers() -> None:
    """The list of names that needs no reader is that of the readers, in their order."""
    assert tuple(_MATCHES) == TOOLS


def test_every_client_gives_requests_and_times(save: Save) -> None:
    """Starts, lengths, TTFT and E2E come out the same whichever client wrote them down."""
    starts = (0.0, 0.5, 1.5)
    files = {
        "vllm-bench": save("a.json", serve(output_lens=[4, 5, 6], ttfts=[0.1] * 3, itls=[[0.2, 0.2]] * 3)),
        "aiperf": save("profile_export.jsonl", [aiperf(i, t) for i, t in enumerate(starts)]),
        "inference-perf": save("per_request.json", [life(i, t) for i, t in enumerate(starts)]),
        "guidellm": save("benchmarks.json", {"benchmarks": [report(
            {"type_": "constant", "rate": 2.0}, *(guided(i, t, t) for i, t in enumerate(starts)))]}),
        "llmservingsim-bench": save("requests.jsonl", [sim_bench(i, t) for i, t in enumerate(starts)]),
    }  # fmt: skip
    assert set(files) == set(TOOLS)
    for path in (*files.values(), save("new.json", [new_life(i, t) for i, t in enumerate(starts)])):
        recorded = read_measured(path)
        workload = recorded.workload
        assert workload.client == OpenLoop()
        assert workload.prompt_tokens.tolist() == [10, 20, 30]
        assert workload.output_tokens.tolist() == [4, 5, 6]
        np.testing.assert_allclose(workload.arrival_s, starts, atol=1e-6)
        np.testing.assert_allclose(recorded.measured.sent_s, starts, atol=1e-6)
        np.testing.assert_allclose(recorded.measured.ttft_s, 0.1, atol=1e-6)
        np.testing.assert_allclose(recorded.measured.e2e_s, 0.5, atol=1e-6)
        assert read_trace(path).arrival_s.tolist() == workload.arrival_s.tolist()


def test_starts_in_nanoseconds_lose_nothing(save: Save) -> None:
    """Epoch nanoseconds are subtracted as whole numbers."""
    path = save("profile_export.jsonl", [aiperf(0, 0), aiperf(1, 0, metadata={"request_start_ns": NS + 123_456_789})])
    assert read_trace(path).arrival_s.tolist() == [0.0, 0.123456789]


def test_appended_results_are_chosen_by_number(save: Save) -> None:
    """Several results in one file are listed, and one is read once it is chosen."""
    path = save("all.jsonl", [serve(), serve(request_rate="inf", max_concurrency=2), serve(input_lens=[1, 2, 3])])
    with pytest.raises(UserError, match=r"holds 3 results \(1: 3 requests, 2 requests/s; 2: .*concurrency 2") as asked:
        read_trace(path)
    assert asked.value.hint == "choose one: --result N"
    assert read_trace(path, result=3).prompt_tokens.tolist() == [1, 2, 3]
    assert read_trace(path, result=2).client == ClosedLoop(concurrency=2)
    with pytest.raises(UserError, match="result 4 was asked for, the file holds 3"):
        read_trace(path, result=4)
    one = save("one.json", serve())
    assert len(read_trace(one, result=1)) == 3


def test_a_rate_and_a_concurrency_are_both_kept(save: Save) -> None:
    """A client with both sends at its rate and waits for answers at its cap; a concurrency alone is a closed loop."""
    workload = read_trace(save("r.json", serve(max_concurrency=2)))
    assert workload.client == CappedLoop(concurrency=2)
    assert workload.arrival_s.tolist() == [0.0, 0.5, 1.5]
    assert any("no more than the client's concurrency of 2 are unanswered" in note for note in workload.notes)
    strategy = {"type_": "constant", "rate": 4.0, "max_concurrency": 3}
    path = save("g.json", {"benchmarks": [report(strategy, guided(0, 0.1, 0.0), guided(1, 0.9, 0.25))]})
    assert read_trace(path).client == CappedLoop(concurrency=3)
    np.testing.assert_allclose(read_trace(path).arrival_s, [0.0, 0.25], atol=1e-6)


def test_sglang_writes_infinity_and_no_starts(save: Save) -> None:
    """Without a concurrency all requests are sent at once; with one it is a closed loop; a rate has no start times."""
    assert read_trace(save("a.jsonl", [sglang()])).arrival_s.tolist() == [0.0, 0.0, 0.0]
    closed = read_trace(save("b.jsonl", [sglang(max_concurrency=2)]))
    assert (closed.client, closed.prompt_tokens.tolist()) == (ClosedLoop(concurrency=2), [10, 20, 30])
    for rate in (2.0, "trace"):
        with pytest.raises(UserError, match="has no start_times, and request_rate"):
            read_trace(save("c.jsonl", [{**sglang(), "request_rate": rate}]))


@pytest.mark.parametrize(
    ("strategy", "client", "arrivals"),
    [
        ({"type_": "concurrent", "streams": 2}, ClosedLoop(concurrency=2), [0.0, 0.0]),
        ({"type_": "synchronous"}, ClosedLoop(concurrency=1), [0.0, 0.0]),
        ({"type_": "throughput"}, OpenLoop(), [0.0, 0.0]),
        ({"type_": "poisson", "rate": 4.0}, OpenLoop(), [0.0, 0.25]),
    ],
)
def test_guidellm_strategies_become_clients(save: Save, strategy: Any, client: Any, arrivals: list[float]) -> None:
    """A concurrency is a closed loop; a rate is replayed as it was scheduled, not as it was sent."""
    path = save("b.json", {"benchmarks": [report(strategy, guided(0, 0.1, 0.0), guided(1, 0.9, 0.25))]})
    workload = read_trace(path)
    assert workload.client == client
    np.testing.assert_allclose(workload.arrival_s, arrivals, atol=1e-6)


def test_a_sample_of_a_run_is_not_its_load(save: Save) -> None:
    """A report that kept some of its requests is refused with both numbers; a sweep asks which benchmark."""
    short = {"benchmarks": [report({"type_": "synchronous"}, guided(0, 0, 0), total=500)]}
    with pytest.raises(UserError, match="benchmark 1: holds 1 of 500 requests, a sample"):
        read_trace(save("b.json", short))
    sweep = {"benchmarks": [report({"type_": "constant", "rate": r}, guided(0, 0, 0)) for r in (1.0, 2.0)]}
    with pytest.raises(UserError, match="holds 2 results"):
        read_trace(save("c.json", sweep))
    assert len(read_trace(save("c.json", sweep), result=2)) == 1


def test_what_failed_or_warmed_up_is_left_out_and_counted(save: Save) -> None:
    """Failures, cancelled requests and the warm-up phase are no load to replay, and each is counted."""
    path = save("profile_export.jsonl", [
        aiperf(0, 0, metadata={"benchmark_phase": "warmup"}), aiperf(1, 1), aiperf(2, 2, metadata={"turn_index": 1}),
        aiperf(3, 3, error={"message": "x"}, metrics={}), aiperf(4, 4, metadata={"was_cancelled": True}),
    ])  # fmt: skip
    workload = read_trace(path)
    notes = " ".join(workload.notes)
    assert workload.arrival_s.tolist() == [0.0, 1.0]
    for words in ("left out 1 requests of the warm-up", "dropped 2 failed requests, kept 2", "1 requests are follow-up",
                  "closed:trace=FILE,concurrency=N"):  # fmt: skip
        assert words in notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.json", serve(input_lens=[-3, 1, 1]), r"r\.json: input_lens\[0\] is -3"),
        ("r.json", serve(ttfts=[0.1, -0.1, 0.1]), r"ttfts\[1\] is -0\.1"),
        ("r.json", serve(itls=[[], [-0.003], []]), r"itls\[1\]\[0\] is -0\.003"),
        ("r.json", serve(output_lens=[2**63, 1, 1]), r"output_lens\[0\] is 9223372036854775808"),
        ("r.json", serve(start_times=["a", 1, 2]), r"start_times\[0\] is 'a'"),
        ("r.json", serve(request_rate=-1), "request_rate is -1"),
        ("r.json", serve(max_concurrency=[2]), r"max_concurrency is \[2\]"),
        ("r.json", serve(errors=[1, "", ""]), r"errors\[0\] is 1"),
        ("r.json", serve(start_times=[0, 1, 9e6]), "the run is 9,000,000 s .* long, the engine's clock holds"),
        ("p.jsonl", [aiperf(0, 0), {"metadata": {}, "metrics": {}}], r"p\.jsonl:2: has no metadata.request_start_ns"),
        ("p.jsonl", [aiperf(0, 0), {"a": 1}], r"p\.jsonl:2: is no record of AIPerf"),
        ("p.jsonl", [aiperf(0, 0, metrics={"input_sequence_length": {"value": -1}})], r"p\.jsonl:1: metrics\.input_s"),
        ("l.json", [life(0, 0, end_time=49.0)], r"l\.json: entry 1: end_time is 49\.0"),
        ("l.json", [life(0, 0), 3], r"l\.json: entry 2: is 3, must be a JSON object"),
        ("g.json", {"benchmarks": [{"requests": {"successful": [4]}}]}, r"requests\.successful\[0\] is 4"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused_by_place_and_key(save: Save, name: str, content: Any, message: str) -> None:
    """A negative count or time, or a wrong type, is named with file, line or entry, key and value."""
    with pytest.raises(UserError, match=message):
        read_trace(save(name, content))


def test_reading_options_are_refused_for_a_client_s_file(save: Save) -> None:
    """What a client's own keys decide is not overruled in silence; a trace holds no measured times."""
    path = save("r.json", serve())
    for options in ({"time_unit": "ms"}, {"columns": {"time": "x"}, "format": "vllm-bench"}, {"sort": True}):
        with pytest.raises(UserError, match="has no use for a file of vllm-bench"):
            read_trace(path, **options)
    trace = save("t.jsonl", [{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1}])
    with pytest.raises(UserError, match="holds no measured times"):
        read_measured(trace)
