"""Collectives on a real gloo world of four processes: every kind, agreed results, failures that do not end the run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from torch.distributed import ReduceOp

from profiler.collectives.kernels import KINDS, REDUCTION, algbw_bytes_per_s, busbw_bytes_per_s

_RANKS = Path(__file__).with_name("collective_ranks.py")


def _run_world(world_size, scenario, out):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(_RANKS), scenario, str(out)],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        errors = [rank.communicate()[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert ranks[0].returncode == 0, errors[0]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return _run_world(4, "all", tmp_path_factory.mktemp("world") / "results.json")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_measured_on_every_group_size(results, kind):
    """Two pairs at once, three ranks with one left over, and the whole world all give times."""
    of_kind = [result for result in results if result["kind"] == kind and result["backend"] == "gloo"]
    assert {result["ranks"] for result in of_kind if result["status"] == "ok"} == {2, 3, 4}
    assert all(result["median_s"] > 0 and result["samples"] >= 2 for result in of_kind if result["status"] == "ok")


@pytest.mark.parametrize(
    ("kind", "whole", "part"),
    [
        ("all_reduce", {"allreduce_": 0}, {}),
        ("all_gather", {"_allgather_base_": 0}, {"_allgather_base_": 1}),
        ("reduce_scatter", {"_reduce_scatter_base_": 1}, {"_reduce_scatter_base_": 0}),
        ("all_to_all", {"alltoall_base_": 0}, {}),
        ("send_recv", {"send": 0, "recv_": 0}, {}),
    ],
)
def test_the_message_is_nccl_tests_total_payload(results, kind, whole, part):
    """S is the reduced tensor, the gathered result, the input to scatter or exchange, or the message itself."""
    (operands,) = [r["operands"] for r in results if r["kind"] == kind and "operands" in r]
    assert {name: operands[name][place] for name, place in whole.items()} == dict.fromkeys(whole, 6144 * 4)
    assert {name: operands[name][place] for name, place in part.items()} == dict.fromkeys(part, 6144)


def test_an_all_reduce_sums_as_engines_do(results):
    """It leaves the sum of all ranks' operands, not an average, which NCCL runs as another kernel."""
    assert [r["is_sum"] for r in results if "is_sum" in r] == [True]
    assert REDUCTION == ReduceOp.SUM


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_sums_stay_finite_over_a_sample(results, dtype):
    """After the most calls a sample may have, and again after a restoration, values are finite, and no zeros."""
    (largest,) = [r["largest"][dtype] for r in results if r["kind"] == "all_reduce" and "largest" in r]
    assert all(0 < value < float("inf") for value in largest)
    assert largest[0] == largest[1]


def test_all_ranks_agree_on_samples_status_and_end(results):
    """Every rank, also one left over, returns the same samples: the slowest rank's."""
    assert all(result["agreed"] for result in results)


def test_a_size_that_does_not_split_is_unsupported_with_numbers(results):
    """An illegal size is a status that names the size and the ranks, on all ranks."""
    (illegal,) = [r for r in results if r["kind"] == "all_gather" and r["status"] == "unsupported"]
    assert "8194 bytes" in illegal["note"]
    assert "4 ranks" in illegal["note"]


def test_what_this_run_cannot_measure_is_unsupported_by_name(results):
    """An unknown format, a group size this world does not have, a path that is not there."""
    notes = [r["note"] for r in results if r["kind"] == "all_reduce" and r["status"] == "unsupported"]
    assert len(notes) == 3
    assert "fp8" in notes[0]
    assert "7 ranks" in notes[1]
    assert "nccl" in notes[2]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("test.oom", "oom", "rank 1: no room for the operand"),
        ("test.sleepy", "timeout", "did not end within 2 s"),
        ("test.broken", "error", "rank 1: a defect of this path"),
    ],
)
def test_a_failure_of_one_rank_is_one_status_and_the_next_point_is_measured(results, path, status, words):
    """Out of memory, a hang and a defect on one rank: the cause is told, the groups work again afterwards."""
    index = next(i for i, result in enumerate(results) if result["backend"] == path)
    assert results[index]["status"] == status
    assert words in results[index]["note"]
    assert "\n" not in results[index]["note"]
    assert results[index + 1]["status"] == "ok"


def test_a_killed_rank_ends_in_ranks_lost(tmp_path):
    """A sibling that dies in the middle of a collective is reported, never waited for without end."""
    (result,) = _run_world(2, "lost", tmp_path / "results.json")
    assert result["status"] == "lost"
    assert "stopped answering" in result["note"]


def test_bandwidths_are_those_of_nccl_tests():
    """Algbw = S / t; busbw scales it by 2 (n - 1) / n, (n - 1) / n or 1."""
    assert algbw_bytes_per_s(8_000_000, 1e-3) == 8e9
    assert busbw_bytes_per_s("all_reduce", 8, 8_000_000, 1e-3) == pytest.approx(14e9)
    assert busbw_bytes_per_s("all_gather", 8, 8_000_000, 1e-3) == pytest.approx(7e9)
    assert busbw_bytes_per_s("reduce_scatter", 4, 8_000_000, 1e-3) == pytest.approx(6e9)
    assert busbw_bytes_per_s("all_to_all", 2, 8_000_000, 1e-3) == pytest.approx(4e9)
    assert busbw_bytes_per_s("send_recv", 2, 8_000_000, 1e-3) == pytest.approx(8e9)
