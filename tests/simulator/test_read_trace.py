"""Reading request traces: every supported format, and every way a file can be wrong."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.workload.traces.read_trace import iter_trace, read_trace
from simulator.workload.traces.sharegpt import TextLengths
from simulator.workload.workload import ClosedLoop, OpenLoop

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def jsonl(*records: Mapping[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def apex(offset_ns: Any, prompt: Any = 10, output: Any = 5) -> dict[str, Any]:
    return {"StartTimeOffset": offset_ns, "ContextTokens": prompt, "GeneratedTokens": output}


def mooncake(ms: int, prompt: int, ids: list[int], output: int = 5) -> dict[str, Any]:
    return {"timestamp": ms, "input_length": prompt, "output_length": output, "hash_ids": ids}


def test_apex_trace_converts_nanoseconds_and_keeps_replicas(write: Write) -> None:
    """An APEX trace's offsets become seconds from its first request, and its replicas are kept."""
    records = ({**apex(1_500_000_000, 304, 822), "Replica": 1}, {**apex(2_000_000_000, 7, 0), "Replica": 0})
    workload = read_trace(write("t.jsonl", jsonl(*records)))
    assert workload.arrival_s.tolist() == [0.0, 0.5]
    assert workload.prompt_tokens.tolist() == [304, 7]
    assert workload.output_tokens.tolist() == [822, 0]
    assert workload.replica is not None
    assert workload.replica.tolist() == [1, 0]
    assert workload.client == OpenLoop()
    assert any("1 requests generate 0 tokens" in note for note in workload.notes)


@pytest.mark.parametrize("offset", ["", "+00:00"])
def test_azure_trace_reads_seven_digit_fractions_with_and_without_zone(write: Write, offset: str) -> None:
    """Azure's 100 ns fractions survive, across midnight, whether or not a UTC offset is written."""
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens,NumImages\n"
        f"2023-11-16 23:59:59.9799600{offset},4808,10,0\n2023-11-17 00:00:00.0000001{offset},110,27,2\n"
    )
    workload = read_trace(write("azure.csv", text))
    assert workload.arrival_s.tolist() == [0.0, 0.0200401]
    assert workload.prompt_tokens.tolist() == [4808, 110]


@pytest.mark.parametrize(
    "header",
    [
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
    ],
)
def test_burstgpt_goes_by_column_names_and_drops_failures_loudly(write: Write, header: str) -> None:
    """Both BurstGPT layouts give the same requests; a response of 0 tokens is a failure, dropped and counted."""
    extra = ",7,0.5" if "Session" in header else ""
    rows = [
        f"{t}{extra},ChatGPT,{p},{o},{p + o},Conversation log"
        for t, p, o in ((5, 472, 18), (45, 9, 0), (118, 1087, 230))
    ]
    workload = read_trace(write("burst.csv", "\n".join([header, *rows]) + "\n"))
    assert workload.arrival_s.tolist() == [0.0, 113.0]
    assert workload.output_tokens.tolist() == [18, 230]
    assert any("dropped 1 failed requests" in note for note in workload.notes)


def test_mooncake_trace_keeps_prefix_blocks(write: Write) -> None:
    """Mooncake's hash ids become 512-token prefix blocks of the request that sent them."""
    workload = read_trace(write("m.jsonl", jsonl(mooncake(0, 1000, [0, 1]), mooncake(300, 600, [0, 2]))))
    assert workload.arrival_s.tolist() == [0.0, 0.3]
    assert workload.prefix is not None
    assert workload.prefix.block_tokens == 512
    assert workload.prefix.offsets.tolist() == [0, 2, 4]
    assert workload.prefix.ids.tolist() == [0, 1, 0, 2]


def bailian(chat: int, parent: int, s: float) -> dict[str, Any]:
    return {
        "chat_id": chat,
        "parent_chat_id": parent,
        "timestamp": s,
        "input_length": 20,
        "output_length": 3,
        "type": "text",
        "turn": 1 if parent < 0 else 2,
        "hash_ids": [chat, chat + 1000],
    }


def test_bailian_turns_replay_as_recorded_or_after_their_parent(write: Write) -> None:
    """A turn arrives when recorded unless its link to the parent is asked for; an absent parent is counted."""
    path = write("b.jsonl", jsonl(bailian(5, -1, 0.0), bailian(9, -1, 1.0), bailian(7, 5, 61.5), bailian(8, 77, 70.0)))
    recorded = read_trace(path)
    assert recorded.after is None
    assert recorded.prefix is not None
    assert recorded.prefix.block_tokens == 16
    linked = read_trace(path, turns="after_parent")
    assert linked.after is not None
    assert linked.think_s is not None
    assert linked.after.tolist() == [-1, -1, 0, -1]
    assert linked.think_s.tolist() == [0.0, 0.0, 61.5, 0.0]
    assert any("1 turns name a parent" in note for note in linked.notes)


def turn(characters: int) -> dict[str, str]:
    return {"from": "human", "value": "x" * characters}


def test_sharegpt_keeps_what_a_benchmark_keeps_and_says_what_it_estimated(write: Write) -> None:
    """First two turns count; too few turns or too long or short texts are dropped and counted."""
    document = [
        {"id": "a", "conversations": [turn(400), turn(80), turn(9)]},
        {"id": "b", "conversations": [turn(400)]},
        {"id": "c", "conversations": [turn(4), turn(400)]},
        {"id": "d", "conversations": [turn(4 * 1025), turn(400)]},
    ]
    path = write("sharegpt.json", json.dumps(document))
    workload = read_trace(path)
    assert (workload.prompt_tokens.tolist(), workload.output_tokens.tolist()) == ([100], [20])
    assert workload.arrival_s.tolist() == [0.0]
    notes = " ".join(workload.notes)
    assert "4 characters per token" in notes
    assert "dropped 1 conversations of fewer than 2 turns and 2 outside" in notes
    counted = read_trace(path, text=TextLengths(count_tokens=lambda text: len(text) // 10))
    assert counted.prompt_tokens.tolist() == [40, 410]


def bench(**overrides: Any) -> str:
    document = {
        "request_rate": 2.0,
        "max_concurrency": None,
        "input_lens": [10, 20, 30],
        "output_lens": [5, 0, 7],
        "start_times": [102.5, 101.0, 101.5],
        "total_input_tokens": 60,
    }
    return json.dumps({**document, **overrides})


def test_vllm_bench_result_replays_its_requests(write: Write) -> None:
    """Start times lose their arbitrary origin, failed requests are dropped and counted, order is by time."""
    workload = read_trace(write("result.json", bench()))
    assert workload.arrival_s.tolist() == [0.0, 1.0]
    assert workload.prompt_tokens.tolist() == [30, 10]
    assert any("dropped 1 failed" in note for note in workload.notes)


def test_vllm_bench_result_of_a_closed_loop_stays_one(write: Write) -> None:
    """At infinite rate under a concurrency limit the recorded start times are outcomes: they give the order alone."""
    workload = read_trace(write("result.json", bench(request_rate="inf", max_concurrency=2)))
    assert workload.client == ClosedLoop(concurrency=2)
    assert workload.arrival_s.tolist() == [0.0, 0.0]
    assert workload.prompt_tokens.tolist() == [30, 10]


def test_gzipped_and_bom_marked_files_read_like_plain_ones(tmp_path: Path) -> None:
    """Compression and a byte-order mark change nothing."""
    text = "﻿" + jsonl(apex(0), apex(10**9)) + "\n\n"
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text(text, encoding="utf-8")
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_trace(plain).arrival_s.tolist() == read_trace(packed).arrival_s.tolist() == [0.0, 1.0]


def test_other_key_names_and_units_are_named_by_the_user(write: Write) -> None:
    """A timed trace of unknown keys reads once its columns, unit and block size are named."""
    records = ({"t": 0, "in": 30, "out": 3, "h": [1, 2]}, {"t": 5_000_000, "in": 40, "out": 4, "h": [1, 3, 4]})
    workload = read_trace(
        write("x.jsonl", jsonl(*records)),
        format="mooncake",
        columns={"time": "t", "prompt": "in", "output": "out", "hash_ids": "h"},
        time_unit="us",
        block_tokens=16,
    )
    assert workload.arrival_s.tolist() == [0.0, 5.0]
    assert workload.prefix is not None
    assert workload.prefix.block_tokens == 16


def test_limit_scaling_and_sorting(write: Write) -> None:
    """The first N requests in time order, at a scaled rate and scaled lengths."""
    path = write("t.jsonl", jsonl(apex(3 * 10**9, 30), apex(1 * 10**9, 10), apex(2 * 10**9, 20)))
    workload = read_trace(path, sort=True, limit=2, rate_scale=2.0, length_scale=(1.0, 0.3))
    assert workload.arrival_s.tolist() == [0.0, 0.5]
    assert workload.prompt_tokens.tolist() == [10, 20]
    assert workload.output_tokens.tolist() == [2, 2]


def test_sorting_carries_prefix_blocks_along(write: Write) -> None:
    """Sorting moves a request's ragged block list with it."""
    path = write("m.jsonl", jsonl(mooncake(900, 1500, [7, 8, 9]), mooncake(100, 600, [1, 2])))
    workload = read_trace(path, sort=True)
    assert workload.prefix is not None
    assert workload.prefix.offsets.tolist() == [0, 2, 5]
    assert workload.prefix.ids.tolist() == [1, 2, 7, 8, 9]


@pytest.mark.parametrize("chunk_requests", [1, 2, 3, 100])
def test_streaming_equals_reading_whole(write: Write, chunk_requests: int) -> None:
    """Chunks laid end to end are the whole trace, whatever the chunk size."""
    records = [mooncake(100 * i, 600 + i, [0, i]) for i in range(7)]
    path = write("m.jsonl", jsonl(*records))
    whole, chunks = read_trace(path), list(iter_trace(path, chunk_requests=chunk_requests))
    assert max(map(len, chunks)) <= chunk_requests
    assert np.concatenate([c.arrival_s for c in chunks]).tolist() == whole.arrival_s.tolist()
    assert np.concatenate([c.prompt_tokens for c in chunks]).tolist() == whole.prompt_tokens.tolist()
    assert whole.prefix is not None
    assert np.concatenate([c.prefix.ids for c in chunks if c.prefix]).tolist() == whole.prefix.ids.tolist()


def test_streaming_counts_time_from_the_first_chunk(write: Write) -> None:
    """Calendar times of later chunks count from the first record of the trace, not of the chunk."""
    rows = "".join(f"2023-11-16 18:00:0{i}.0000000,10,5\n" for i in range(4))
    chunks = list(iter_trace(write("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows), chunk_requests=2))
    assert [chunk.arrival_s.tolist() for chunk in chunks] == [[0.0, 1.0], [2.0, 3.0]]


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OWN = "arrival_s,prompt_tokens,output_tokens\n"

# name of the file, its text, what the message must say
BAD_FILES = [
    ("t.jsonl", jsonl(apex(0), apex(10**9, -3)), r"t\.jsonl:2: ContextTokens is -3, must be >= 1"),
    ("t.jsonl", jsonl(apex(0, 0)), r"t\.jsonl:1: ContextTokens is 0, must be >= 1"),
    ("t.jsonl", jsonl(apex(0, 5, -1)), r"t\.jsonl:1: GeneratedTokens is -1, must be >= 0"),
    ("t.jsonl", jsonl(apex(0, "12")), r"t\.jsonl:1: ContextTokens is '12', must be a number"),
    ("t.jsonl", jsonl(apex(0, True)), r"t\.jsonl:1: ContextTokens is True, must be a number"),
    ("t.jsonl", jsonl(apex(0, None)), r"t\.jsonl:1: ContextTokens is None, must be a number"),
    ("t.jsonl", jsonl(apex(0, 1.5)), r"t\.jsonl:1: ContextTokens is 1\.5, must be a whole number"),
    ("t.jsonl", jsonl(apex(float("nan"))), r"t\.jsonl:1: StartTimeOffset is nan, must be a number"),
    ("t.jsonl", jsonl(apex(-5)), r"t\.jsonl:1: StartTimeOffset is -5, must be >= 0"),
    ("t.jsonl", jsonl(apex(0, 10**30)), r"t\.jsonl:1: ContextTokens is 1e\+30, must be <= 20000000"),
    ("t.jsonl", jsonl(apex(2 * 10**9), apex(10**9)), r"t\.jsonl:2: .*1\.000000 s earlier"),
    ("t.jsonl", jsonl(apex(0)) + '{"StartTimeOffset": 1, "Con\n', r"t\.jsonl:2: not JSON"),
    ("t.jsonl", jsonl(apex(0)) + "[1]\n", r"t\.jsonl:2: is \[1\], must be a JSON object"),
    ("t.jsonl", jsonl(apex(0)) + '{"a": 1}, {"b": 2}\n', r"t\.jsonl:2: not JSON"),
    ("t.jsonl", jsonl(apex(0), {"StartTimeOffset": 1}), r"t\.jsonl:2: has no key 'ContextTokens'"),
    ("t.jsonl", jsonl({"foo": 1}), r"no known trace format has the keys 'foo'"),
    ("t.jsonl", "", r"t\.jsonl: the trace is empty"),
    ("t.csv", "", r"t\.csv: the trace is empty"),
    ("t.csv", AZURE, r"t\.csv: the trace is empty"),
    ("t.jsonl", jsonl(apex(0), apex(1), apex(2)), r"puts one request every 1e-09 s"),
    ("t.jsonl", jsonl(mooncake(0, 5, [1]), mooncake(10**9, 5, [1])), r"puts one request every 1e\+06 s"),
    ("t.jsonl", jsonl(mooncake(0, 600, [1, 2, 3])), r"t\.jsonl:1: hash_ids has 3 blocks of 512"),
    ("t.jsonl", jsonl(mooncake(0, 600, [1, "x"])), r"t\.jsonl:1: hash_ids is \[1, 'x'\], must be a list of whole"),
    ("t.jsonl", jsonl(bailian(1, -1, 0), bailian(1, -1, 1)), r"t\.jsonl:2: chat_id is 1, must be unique; request 1"),
    ("t.csv", AZURE + "2023-11-16 18:17:03.97,a,10\n", r"t\.csv:2: ContextTokens is 'a', must be a number"),
    ("t.csv", AZURE + "2023-11-16 18:17:03.97,,10\n", r"t\.csv:2: ContextTokens is '', must be a number"),
    ("t.csv", AZURE + "2023-11-16 18:17:03.97,nan,10\n", r"t\.csv:2: ContextTokens is 'nan', must be a number"),
    ("t.csv", AZURE + "2023-11-16 18:17:03.97,5\n", r"t\.csv:2: has 2 fields, must be 3"),
    ("t.csv", AZURE + "yesterday,5,10\n", r"t\.csv:2: TIMESTAMP is 'yesterday', must be a date and time"),
    ("t.csv", OWN + "0.5,10,5\n0.25,10,5\n", r"t\.csv:3: arrival_s is '0\.25', 0\.250000 s earlier"),
    ("t.csv", OWN.replace("arrival_s", "prompt_tokens"), r"no known trace format"),
    ("t.csv", "arrival_s," + OWN, r"column 'arrival_s' appears 2 times"),
    ("t.csv", "id," + OWN + "a,0,1,1\na,1,1,1\n", r"t\.csv:3: id is 'a', must be unique; request 1 has it too"),
    ("t.txt", "x", r"t\.txt: cannot tell the trace format from the suffix '\.txt'"),
    ("r.json", bench(output_lens=[0, 0, 0]), r"all 3 requests failed"),
    ("r.json", bench(input_lens=[1, 2]), r"input_lens has 2 entries, output_lens 3"),
    ("r.json", bench(input_lens=[0, 2, 3]), r"input_lens\[0\] is 0, must be >= 1"),
    ("r.json", bench(input_lens=None), r"has no per-request list 'input_lens'"),
    ("r.json", bench(start_times=None), r"has no start_times, and request_rate is 2"),
    ("r.json", bench(start_times=["a", 1, 2]), r"start_times\[0\] is 'a'"),
    ("r.json", bench(request_rate="inf", max_concurrency=0), r"max_concurrency is 0"),
    ("r.json", "[" + "{" * 5, r"r\.json: entry 1: not JSON"),
    ("r.json", "[]", r"r\.json: the trace is empty"),
    ("r.json", '[{"id": 1}]', r"no known trace format has the keys 'id'"),
    ("r.json", '[{"conversations": []}, {"id": 1}]', r"entry 2: has no list 'conversations'"),
    ("t.jsonl", jsonl({**apex(0), "Replica": 1}, apex(1)), r"t\.jsonl:2: has no key 'Replica'"),
    ("t.csv", "after," + OWN + "-1,0,1,1\n1,1,1,1\n", r"t\.csv:3: after is 1, must be the index of an earlier request"),
    ("t.jsonl", '{"apex_workload": 2}\n', r"version is 2, must be 1"),
    ("t.jsonl", '{"apex_workload": 1, "client": {"concurrency": 0}}\n' + "{}\n", r"client is \{'concurrency': 0\}"),
    ("t.jsonl", '{"apex_workload": 1}\n', r"the trace is empty"),
    ("t.jsonl", '{"apex_workload": 1}\n{\n', r"t\.jsonl:2: not JSON"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD_FILES)
def test_bad_file_is_refused_by_file_line_key_and_value(write: Write, name: str, text: str, message: str) -> None:
    """Each kind of bad content is one UserError that names where it stands and what it must be."""
    with pytest.raises(UserError, match=message):
        read_trace(write(name, text))


def test_fault_far_into_a_stream_is_named_by_its_line(write: Write) -> None:
    """The line number in a message counts from the start of the file, not of the chunk."""
    path = write("t.jsonl", jsonl(*(apex(i * 10**9) for i in range(9)), apex(9 * 10**9, -1)))
    with pytest.raises(UserError, match=r"t\.jsonl:10: ContextTokens is -1"):
        list(iter_trace(path, chunk_requests=4))
    late = write("u.jsonl", jsonl(*(apex(i * 10**9) for i in (1, 2, 0))))
    with pytest.raises(UserError, match=r"u\.jsonl:3: .*earlier"):
        list(iter_trace(late, chunk_requests=2))


def test_a_key_that_appears_late_is_not_dropped_in_silence(write: Write) -> None:
    """A column that only later chunks have is named, not ignored."""
    path = write("t.jsonl", jsonl(apex(0), apex(10**9), {**apex(2 * 10**9), "Replica": 1}))
    with pytest.raises(UserError, match=r"t\.jsonl:3: has a key 'Replica' that earlier records lack"):
        list(iter_trace(path, chunk_requests=2))


def test_turn_links_without_think_times_follow_at_once(write: Write) -> None:
    """A link alone is enough: the follow-up is sent as soon as its parent has finished."""
    workload = read_trace(write("t.csv", "after," + OWN + "-1,0,1,1\n0,1,1,1\n"))
    assert workload.after is not None
    assert workload.think_s is not None
    assert (workload.after.tolist(), workload.think_s.tolist()) == ([-1, 0], [0.0, 0.0])


def test_sorting_may_not_put_a_turn_ahead_of_its_parent(write: Write) -> None:
    """A follow-up recorded before its parent cannot be ordered by time."""
    path = write("t.csv", "after," + OWN + "-1,5,1,1\n0,1,1,1\n")
    with pytest.raises(UserError, match="request 1 by arrival follows request 2, a later one"):
        read_trace(path, sort=True)


def test_missing_damaged_and_binary_files(tmp_path: Path) -> None:
    """A file that is not there, is cut, or is no text at all is named with what to do."""
    with pytest.raises(UserError, match="no such file"):
        read_trace(tmp_path / "none.csv")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(jsonl(*(apex(i * 10**9) for i in range(999))).encode())[:-200])
    with pytest.raises(UserError, match="damaged gzip file"):
        read_trace(cut)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"binary\.jsonl:1: not UTF-8"):
        read_trace(binary)
    parquet = tmp_path / "cut.parquet"
    parquet.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="damaged or not a Parquet file"):
        read_trace(parquet)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate_scale": 0.0}, "rate_scale is 0.0, must be a positive number"),
        ({"length_scale": float("nan")}, "length_scale is nan"),
        ({"limit": 0}, "limit is 0, must be >= 1"),
        ({"block_tokens": 0}, "block_tokens is 0, must be >= 1 and <= 20000000"),
        ({"format": "excel"}, "trace format 'excel' is not known"),
        ({"columns": {"price": "x"}}, "column role 'price' is not known"),
        ({"time_unit": "h"}, "time unit 'h' is not known"),
    ],
)
def test_bad_reading_options_are_refused(write: Write, arguments: dict[str, Any], message: str) -> None:
    """An option out of range is named with its value and limit."""
    with pytest.raises(UserError, match=message):
        read_trace(write("t.jsonl", jsonl(apex(0))), **arguments)


def test_prompts_with_prefix_blocks_refuse_length_scaling(write: Write) -> None:
    """Scaled prompts would no longer share what they share, so only outputs may be scaled."""
    path = write("m.jsonl", jsonl(mooncake(0, 600, [0, 1], output=100)))
    with pytest.raises(UserError, match="cannot be scaled"):
        read_trace(path, length_scale=0.5)
    assert read_trace(path, length_scale=(1.0, 0.5)).output_tokens.tolist() == [50]


def test_a_stated_time_unit_overrules_plausibility_but_is_remarked(write: Write) -> None:
    """A user who names the unit is believed, and an odd rate is still pointed out."""
    workload = read_trace(write("t.jsonl", jsonl(apex(0), apex(5))), time_unit="ns")
    assert any("is the time unit right?" in note for note in workload.notes)


@pytest.mark.parametrize("arguments", [{"chunk_requests": 0}, {"format": "sharegpt"}])
def test_streaming_refuses_what_needs_the_whole_file(write: Write, arguments: dict[str, Any]) -> None:
    """A document and an empty chunk cannot be streamed, and say so."""
    with pytest.raises(UserError, match=r"must be >= 1|cannot be streamed"):
        list(iter_trace(write("t.jsonl", jsonl(apex(0))), **arguments))


def test_vidur_and_llmservingsim_traces(write: Write) -> None:
    """Vidur's columns are seconds and LLMServingSim's keys nanoseconds; equal token ids become shared blocks."""
    vidur = read_trace(write("v.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.25,396,109\n"))
    assert (vidur.arrival_s.tolist(), vidur.output_tokens.tolist()) == ([0.0, 4.25], [44, 109])
    prompts = [list(range(40)), [*range(32), 7, 8], [9, *range(1, 32)]]
    records = [
        {"input_toks": len(ids), "output_toks": 3, "arrival_time_ns": 10**9 * i, "input_tok_ids": ids}
        for i, ids in enumerate(prompts)
    ]
    path = write("s.jsonl", jsonl(*records))
    workload = read_trace(path)
    assert workload.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert workload.prefix is not None
    assert (workload.prefix.block_tokens, workload.prefix.offsets.tolist()) == (16, [0, 2, 4, 6])
    assert workload.prefix.ids.tolist() == [0, 1, 0, 1, 2, 3]
    wider = read_trace(path, block_tokens=32)
    assert wider.prefix is not None
    assert wider.prefix.ids.tolist() == [0, 0, 1]
    with pytest.raises(UserError, match=r"t\.jsonl:1: input_tok_ids holds 40 tokens, the prompt 41"):
        read_trace(write("t.jsonl", jsonl({**records[0], "input_toks": 41})))


def test_llmservingsim_sessions_become_turns(write: Write) -> None:
    """A chained call follows the one before after its tool's time; a flat line is a call of its own."""
    calls = [
        {"input_toks": 10, "output_toks": 1, "tool_duration_ns": 250_000_000},
        {"input_toks": 20, "output_toks": 2, "tool_duration_ns": 0},
        {"input_toks": 30, "output_toks": 3},
    ]
    lines = (
        {"session_id": "a", "arrival_time_ns": 10**9, "sub_requests": calls},
        {"input_toks": 5, "output_toks": 5, "arrival_time_ns": 2 * 10**9},
    )
    workload = read_trace(write("s.jsonl", jsonl(*lines)))
    assert workload.after is not None
    assert workload.think_s is not None
    assert workload.after.tolist() == [-1, 0, 1, -1]
    assert workload.think_s.tolist() == [0.0, 0.25, 0.0, 0.0]
    assert workload.arrival_s.tolist() == [0.0, 0.0, 0.0, 1.0]
    for bad, message in (
        ({**lines[0], "sub_requests": []}, r"b\.jsonl:1: sub_requests is \[\]"),
        ({**lines[0], "sub_requests": [{**calls[0], "tool_duration_ns": -1}, calls[1]]}, "tool_duration_ns is -1"),
        ({**lines[0], "sub_requests": [3]}, "call 1: is 3"),
    ):
        with pytest.raises(UserError, match=message):
            read_trace(write("b.jsonl", jsonl(bad)))


def test_sharegpt_may_stand_one_conversation_a_line(write: Write) -> None:
    """A list and lines of the same conversations give the same requests."""
    document = [{"id": str(i), "conversations": [turn(400 + 4 * i), turn(80)]} for i in range(3)]
    as_list, as_lines = write("a.json", json.dumps(document)), write("b.jsonl", jsonl(*document))
    for path in (as_list, as_lines):
        assert read_trace(path).prompt_tokens.tolist() == [100, 101, 102]
        assert read_trace(path, limit=1).prompt_tokens.tolist() == [100]
