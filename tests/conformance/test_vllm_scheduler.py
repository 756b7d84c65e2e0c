"""The engine decides as vLLM's own scheduler does, step by step: live, where an interpreter has vLLM.

``APEX_VLLM_SCHEDULER_PYTHON`` names it (`make conformance` makes one); without it these tests are skipped.
"""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.conformance.scheduler_cases import GROUPS, draw_case
from tests.conformance.scheduler_logs import VllmScheduler, difference, engine_log, first_rows

_VARIABLE = "APEX_VLLM_SCHEDULER_PYTHON"
_SEEDS = range(20)


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmScheduler]:
    """Return vLLM's scheduler in a process of its own."""
    python = os.environ.get(_VARIABLE)
    if not python:
        pytest.skip(f"{_VARIABLE} names no interpreter with vLLM's CPU build")
    found = subprocess.run([python, "-c", "import vllm"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"{python} cannot import vllm: {found.stderr.strip().splitlines()[-1]}")
    with VllmScheduler(python, os.environ.get("APEX_VLLM_SCHEDULER_PACKAGE", "")) as scheduler:
        yield scheduler


@pytest.mark.parametrize("group", list(GROUPS))
def test_the_engine_decides_as_vllm_does(vllm: VllmScheduler, group: str) -> None:
    """Decisions, times, batches, queues and free blocks of every step are equal, and what every request saw."""
    for seed in _SEEDS:
        case = draw_case(group, seed)
        ours, theirs = engine_log(case), vllm.log(case)
        found = difference(ours, theirs)
        assert found is None, f"{case['name']}: {found}\n{first_rows(ours, theirs)}"
