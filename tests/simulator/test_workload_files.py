"""Writing a workload and reading it back: CSV, JSONL, Parquet, APEX JSONL."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.workload.traces.own_files import write_trace
from simulator.workload.traces.read_trace import read_trace
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, PrefixBlocks, Workload


@st.composite
def workloads(draw: st.DrawFn, *, plain: bool = False) -> Workload:
    count = draw(st.integers(1, 12))
    gaps = draw(st.lists(st.floats(0, 1e6), min_size=count, max_size=count))
    tokens = st.lists(st.integers(1, 10**6), min_size=count, max_size=count)
    prompts = np.array(draw(tokens), dtype=np.int64)
    extra: dict[str, Any] = {}
    if draw(st.booleans()):
        extra["replica"] = np.array(draw(st.lists(st.integers(0, 7), min_size=count, max_size=count)), dtype=np.int64)
    if not plain:
        if draw(st.booleans()):
            concurrency = draw(st.integers(1, 99))
            extra["client"] = draw(
                st.sampled_from(
                    [ClosedLoop(concurrency=concurrency, warmup=concurrency % 10), CappedLoop(concurrency=concurrency)]
                )
            )
        if draw(st.booleans()):
            extra["after"] = np.array([draw(st.integers(-1, i - 1)) for i in range(count)], dtype=np.int64)
            extra["think_s"] = np.array(draw(st.lists(st.floats(0, 99), min_size=count, max_size=count)))
        if draw(st.booleans()):
            counts = [draw(st.integers(0, min(3, -(-int(p) // 16)))) for p in prompts]
            extra["prefix"] = PrefixBlocks(
                block_tokens=16,
                offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
                ids=np.array(
                    draw(st.lists(st.integers(0, 9), min_size=sum(counts), max_size=sum(counts))), dtype=np.int64
                ),
            )
    return Workload(
        name="w",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=prompts,
        output_tokens=np.array(draw(tokens), dtype=np.int64) - 1,
        **extra,
    )


def assert_same(left: Workload, right: Workload) -> None:
    """Equal to the last bit, but that a file's arrivals count from its first one."""
    np.testing.assert_array_equal(left.arrival_s, right.arrival_s - right.arrival_s[0])
    for name in ("prompt_tokens", "output_tokens", "replica", "after", "think_s"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
    assert left.client == right.client
    assert (left.prefix is None) == (right.prefix is None)
    if left.prefix is not None and right.prefix is not None:
        assert left.prefix.block_tokens == right.prefix.block_tokens
        np.testing.assert_array_equal(left.prefix.offsets, right.prefix.offsets)
        np.testing.assert_array_equal(left.prefix.ids, right.prefix.ids)


anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)


@anywhere
@given(workload=workloads(), suffix=st.sampled_from([".jsonl", ".parquet"]))
def test_a_workload_survives_jsonl_and_parquet_bit_for_bit(tmp_path: Path, workload: Workload, suffix: str) -> None:
    """Everything a workload holds comes back equal: arrivals to the last bit, client, turns, blocks, replicas."""
    path = tmp_path / f"w{suffix}"
    write_trace(workload, path)
    assert_same(read_trace(path), workload)


@anywhere
@given(workload=workloads(plain=True))
def test_an_open_loop_workload_survives_csv_bit_for_bit(tmp_path: Path, workload: Workload) -> None:
    """CSV keeps arrivals to the last bit, lengths and replicas."""
    write_trace(workload, tmp_path / "w.csv")
    assert_same(read_trace(tmp_path / "w.csv"), workload)


@anywhere
@given(workload=workloads(plain=True))
def test_an_open_loop_workload_survives_apex_jsonl_to_the_nanosecond(tmp_path: Path, workload: Workload) -> None:
    """The APEX form rounds arrivals to whole nanoseconds and nothing else."""
    write_trace(workload, tmp_path / "w.jsonl", format="apex")
    back = read_trace(tmp_path / "w.jsonl", time_unit="ns")
    np.testing.assert_allclose(back.arrival_s, workload.arrival_s - workload.arrival_s[0], rtol=1e-15, atol=2e-9)
    assert back.prompt_tokens.tolist() == workload.prompt_tokens.tolist()
    assert (back.replica is None) == (workload.replica is None)


def one_request(**extra: Any) -> Workload:
    return Workload(
        name="w",
        arrival_s=np.zeros(1),
        prompt_tokens=np.array([5]),
        output_tokens=np.array([2]),
        **{"client": OpenLoop(), **extra},
    )


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("w.csv", {"client": ClosedLoop(concurrency=2)}, "csv cannot hold"),
        ("w.csv", {"after": np.array([-1]), "think_s": np.zeros(1)}, "csv cannot hold"),
        ("w.xlsx", {}, "cannot tell the format from the suffix '.xlsx'"),
        ("none/w.csv", {}, "cannot be written"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, extra: dict[str, Any], message: str
) -> None:
    """Nothing is dropped silently on writing, and a refused write leaves no file."""
    with pytest.raises(UserError, match=message):
        write_trace(one_request(**extra), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A write that fails half-way keeps what was there and leaves no debris."""
    path = tmp_path / "w.parquet"
    write_trace(one_request(), path)
    before = path.read_bytes()
    broken = one_request(replica=np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="expected length"):
        write_trace(broken, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.parquet"]
