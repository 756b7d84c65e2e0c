"""Readers refuse what the engine's clock cannot count, by file and line and with both numbers."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.workload.traces.read_trace import iter_trace, read_trace

DAY = 86_400


def csv(path: Path, *arrivals: float) -> Path:
    """Write a trace of equal requests."""
    rows = "".join(f"{arrival!r},100,10\n" for arrival in arrivals)
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return path


def test_a_span_beyond_the_clock_is_refused_by_line_and_both_numbers(tmp_path: Path) -> None:
    """The record that lies more than 100 days after the first one is named, with the span and the limit."""
    far = csv(tmp_path / "far.csv", 0, 1, 101 * DAY, 102 * DAY)
    with pytest.raises(UserError) as refusal:
        read_trace(far)
    assert str(refusal.value) == (
        f"{far}:4: arrival_s makes the trace 8,726,400 s (101 days) long, "
        "the engine's clock holds 8,640,000 s (100 days)"
    )
    with pytest.raises(UserError, match=r"far.csv:4"):
        list(iter_trace(far, chunk_requests=1))


def test_the_span_counts_from_the_first_arrival(tmp_path: Path) -> None:
    """Epoch seconds are no long span."""
    trace = read_trace(csv(tmp_path / "epoch.csv", 1.7e9, 1.7e9 + 61 * DAY))
    assert float(trace.arrival_s[-1] - trace.arrival_s[0]) == 61 * DAY


def test_what_is_pressed_into_less_time_fits(tmp_path: Path) -> None:
    """A span is judged at the rate it is replayed at."""
    far = csv(tmp_path / "far.csv", 0, 150 * DAY)
    assert float(read_trace(far, rate_scale=2.0).arrival_s[-1]) == 75 * DAY
    with pytest.raises(UserError, match=r"far.csv:3: .* \(100 days\) x rate_scale 1.4"):
        read_trace(far, rate_scale=1.4)
    near = csv(tmp_path / "near.csv", 0, 75 * DAY)
    with pytest.raises(UserError, match=r"near.csv:3"):
        read_trace(near, rate_scale=0.5)
    with pytest.raises(UserError, match="rate_scale is 0, must be a positive number"):
        read_trace(near, rate_scale=0)


def test_an_unsorted_trace_is_judged_as_a_whole(tmp_path: Path) -> None:
    """With ``sort`` a record that lies too far behind an earlier one is named wherever it stands."""
    with pytest.raises(UserError, match=r"late_first.csv:2: .*\(101 days\)"):
        read_trace(csv(tmp_path / "late_first.csv", 101 * DAY, 0), sort=True)


def test_a_think_time_beyond_the_clock_is_refused_by_line(tmp_path: Path) -> None:
    """A turn that waits longer than the clock counts is named with its value and the limit, compressed or not."""
    turns = [
        {"arrival_s": 0, "prompt_tokens": 40, "output_tokens": 2, "after": -1, "think_s": 0},
        {"arrival_s": 1, "prompt_tokens": 40, "output_tokens": 2, "after": 0, "think_s": 1e7},
    ]
    path = tmp_path / "think.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(turn) + "\n" for turn in turns).encode()))
    with pytest.raises(UserError, match=r"think.jsonl.gz:2: think_s is 10000000.0, must be at most 8,640,000 s"):
        read_trace(path)
    turns[1]["think_s"] = 99 * DAY
    path.write_bytes(gzip.compress("".join(json.dumps(turn) + "\n" for turn in turns).encode()))
    think_s = read_trace(path).think_s
    assert think_s is not None
    assert np.array_equal(think_s, [0, 99 * DAY])
