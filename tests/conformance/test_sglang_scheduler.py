"""The engine decides as SGLang's own scheduler and radix cache do, step by step: against kept logs of it, and live.

Kept logs are those of the version they state (`python -m tests.conformance.sglang_conformance --freeze` makes them
anew). The live tests need an interpreter with SGLang, which ``APEX_SGLANG_PYTHON`` names; without one they are skipped.
"""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.conformance.sglang_cases import GROUPS, difference, make_case, run_engine
from tests.conformance.sglang_conformance import SGLang, kept_logs

_SEEDS = range(1_000_000, 1_000_010)


@pytest.mark.parametrize("group", GROUPS)
def test_the_engine_repeats_the_kept_logs(group: str) -> None:
    """Decisions, times, batches, queues and free tokens of every step, and what every request saw, leaping or not."""
    logs = [(case, log) for case, log in kept_logs() if case["name"].startswith(group + ":")]
    assert len(logs) >= 10
    for case, theirs in logs:
        found = difference(run_engine(case), theirs)
        assert found is None, f"{case['name']}: {found}"
        assert run_engine(case, leap=True)["requests"] == theirs["requests"], case["name"]


def test_the_kept_logs_reach_the_rare_rules() -> None:
    """Among them are retractions, prefixes found, and answers of one token, each in many."""
    requests = [request for _, log in kept_logs() for request in log["requests"]]
    assert sum(request[3] > 0 for request in requests) > 20
    assert sum(request[4] > 0 for request in requests) > 100
    assert sum(request[1] == request[2] for request in requests) > 50


def test_a_pause_clears_seats_of_those_that_are_over() -> None:
    """Two seats, no overlap: after a pause nobody holds one, so that SGLang 0.5.10 admits the tenth request at once."""
    case = make_case("no overlap", 104)
    assert (case["max_seqs"], case["async"]) == (2, False)
    assert run_engine(case)["requests"][9][:3] == [1_293_227, 1_307_384, 1_470_437]


@pytest.fixture(scope="module")
def sglang() -> Iterator[SGLang]:
    """Return SGLang's scheduler in a process of its own."""
    python = os.environ.get("APEX_SGLANG_PYTHON")
    if not python:
        pytest.skip("APEX_SGLANG_PYTHON names no interpreter with SGLang")
    found = subprocess.run([python, "-c", "import sglang, zmq, torch"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"{python} cannot import SGLang: {found.stderr.strip().splitlines()[-1]}")
    try:
        side = SGLang(python)
    except RuntimeError as error:
        pytest.skip(f"{python} cannot run SGLang's scheduler: {error}")
    yield side
    side.close()


@pytest.mark.parametrize("group", GROUPS)
def test_the_engine_decides_as_sglang_does(sglang: SGLang, group: str) -> None:
    """The same on workloads of other seeds, run by both sides now."""
    for seed in _SEEDS:
        case = make_case(group, seed)
        found = difference(run_engine(case), sglang(case))
        assert found is None, f"SGLang {sglang.version}, {case['name']}: {found}"
