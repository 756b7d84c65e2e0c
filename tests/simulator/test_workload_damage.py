"""Damaged trace files: whatever is in a file, the reader gives a workload or one clear refusal."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.workload.traces.read_trace import iter_trace, read_trace
from simulator.workload.workload import Workload

SOUND = {
    "apex.jsonl": "".join(
        json.dumps({"StartTimeOffset": i * 10**9, "ContextTokens": 9, "GeneratedTokens": 3, "Replica": 0}) + "\n"
        for i in range(4)
    ),
    "mooncake.jsonl": "".join(
        json.dumps({"timestamp": 900 * i, "input_length": 600, "output_length": 3, "hash_ids": [0, i]}) + "\n"
        for i in range(4)
    ),
    "own.jsonl": '{"apex_workload": 1, "block_tokens": 16, "client": {"concurrency": 2, "warmup": 1}}\n'
    + "".join(
        f'{{"arrival_s": {i}, "prompt_tokens": 40, "output_tokens": 2, '
        f'"prefix_ids": [0, {i}], "after": -1, "think_s": 0}}\n'
        for i in range(4)
    ),
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    + "".join(f"2023-11-16 18:17:0{i}.9799600,4808,10\n" for i in range(4)),
    "burst.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + "".join(f"{i},a,4,5,9,API log\n" for i in range(4)),
    "bench.json": json.dumps(
        {
            "request_rate": 1.0,
            "input_lens": [3, 4],
            "output_lens": [1, 2],
            "start_times": [5.0, 6.0],
            "errors": ["", ""],
        }
    ),
    "sharegpt.json": json.dumps(
        [{"id": "a", "conversations": [{"from": "human", "value": "x" * 40}, {"from": "gpt", "value": "y" * 40}]}]
    ),
}
SNIPPETS = (
    b"",
    b",",
    b"-",
    b"null",
    b"NaN",
    b"1e999",
    b'"',
    b"[",
    b"{}",
    b"\n",
    b"\x00",
    b"\xff",
    b"9" * 30,
    b"true",
    b"0.5",
)


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_of_the_fuzz_test_are_sound(name: str, tmp_path: Path) -> None:
    """The files that get damaged below read without complaint when left alone."""
    path = tmp_path / name
    path.write_text(SOUND[name])
    assert len(read_trace(path)) > 0


def read_or_refusal(path: Path, *, sort: bool) -> tuple[Workload | None, str]:
    try:
        return read_trace(path, sort=sort), ""
    except UserError as error:
        return None, str(error)


def next_length(chunks: Iterator[Workload]) -> int | None:
    """Return the length of the next chunk; None at the end or at a refusal."""
    try:
        return len(next(chunks))
    except (StopIteration, UserError):
        return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200)
@given(name=st.sampled_from(sorted(SOUND)), data=st.data())
def test_damage_is_refused_by_name_or_harmless(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Replacing any stretch of a file by anything gives a workload or an UserError that names the file."""
    raw = SOUND[name].encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 12)))
    path = tmp_path / name
    path.write_bytes(raw[:start] + data.draw(st.sampled_from(SNIPPETS)) + raw[end:])
    workload, refusal = read_or_refusal(path, sort=data.draw(st.booleans()))
    if workload is None:
        assert name in refusal
        return
    assert (workload.prompt_tokens >= 1).all()
    assert (workload.output_tokens >= 0).all()
    assert (workload.arrival_s[1:] >= workload.arrival_s[:-1]).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(name=st.sampled_from(["apex.jsonl", "mooncake.jsonl", "azure.csv", "burst.csv"]), cut=st.integers(0, 400))
def test_a_file_cut_short_streams_up_to_the_cut_or_is_refused(name: str, cut: int, tmp_path: Path) -> None:
    """A file whose writer was killed gives whole requests and then, if a record is torn, an UserError."""
    path = tmp_path / name
    path.write_bytes(SOUND[name].encode()[:cut])
    whole, refusal = read_or_refusal(path, sort=False)
    chunks = iter_trace(path, chunk_requests=1)
    seen = 0
    while (length := next_length(chunks)) is not None:
        seen += length
    if whole is None:
        assert name in refusal
        assert seen <= SOUND[name].encode()[:cut].count(b"\n")
    else:
        assert seen == len(whole)


PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "traces.md").read_text(encoding="utf-8")
JSON_FILES = {
    name: [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else json.loads(text)
    for name, text in re.findall(r"^`([\w.]+\.jsonl?)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
}
ODD_VALUES = (None, True, -1, 1e308, float("nan"), 2**63, 10**400, "\ud800", [], {}, [[1]], "9" * 5000)


def variants(value: Any) -> Iterator[Any]:
    """Yield ``value`` with one part at any depth replaced by an odd value or left out, all of them in turn."""
    yield from ODD_VALUES
    if isinstance(value, dict):
        for key, part in value.items():
            yield {name: other for name, other in value.items() if name != key}
            for changed in variants(part):
                yield {**value, key: changed}
    if isinstance(value, list):
        for place, part in enumerate(value):
            yield [*value[:place], *value[place + 1 :]]
            for changed in variants(part):
                yield [*value[:place], changed, *value[place + 1 :]]


@pytest.mark.parametrize("name", JSON_FILES)
def test_any_value_in_any_place_is_read_or_refused_by_name(name: str, tmp_path: Path) -> None:
    """Whatever stands in one place of a record or a client's result, the answer is requests or a short refusal."""
    path = tmp_path / name
    is_lines = name.endswith("jsonl")
    for changed in variants(JSON_FILES[name]):
        lines = changed if is_lines and isinstance(changed, list) else [changed]
        path.write_text("\n".join(map(json.dumps, lines)))
        workload, refusal = read_or_refusal(path, sort=False)
        assert name in refusal if workload is None else len(workload) > 0
        assert len(refusal) < 1_000
        refusal.encode()
