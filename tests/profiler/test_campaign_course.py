"""Stages that hang, die or outlast their time in processes of their own, and what the next process makes of it."""

import ast
import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="a point's shape is checked against kernels of torch")

from profiler.campaign.anchors import anchor_steps
from profiler.campaign.course import MAX_DEATHS, Course
from profiler.campaign.gpu_tests import CHOSEN, TESTS
from profiler.campaign.point_lists import TABLE_SIDES, TABLE_TOKENS, listed_points
from profiler.campaign.stage_list import DEFAULT_STAGES, parse_stages
from profiler.kernels.step_ops import layer_ops
from profiler.supervisor import supervise

DTYPES = ("bf16", "fp8", "w8a8")
LISTS = ("products", "formats", "small_ops", "attention", "joules", "clocks")
_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from profiler.campaign.course import Course
from profiler.campaign.stage_list import Stage

course = Course(Path({folder!r}), slice_s=3600.0, total_s=3600.0, grace_s={grace}, started_s=time.monotonic())
for stage in (Stage(name="timers", cap_s={cap}), Stage(name="tests")):
    if stage.name in course.state:
        continue
    result = course.refusal(stage)
    if result is None:
        with course.running(stage):
            if stage.name == "timers":
                {bad}
            result = {{"ran": True}}
    course.tell(stage.name, result)
"""


@pytest.fixture
def run_course(tmp_path, monkeypatch):
    """Return a function that runs two stages, the first of which behaves badly, under the real supervisor."""

    def run(bad, cap, *, grace=600.0, **options):
        script = _SCRIPT.format(folder=str(tmp_path), bad=bad, cap=cap, grace=grace)
        (tmp_path / "scripted_course.py").write_text(script)
        code = supervise("scripted_course", 1, [], time_option="--slice", **options)
        return code, json.loads((tmp_path / "state.json").read_text())

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *filter(None, sys.path))))
    return run


def test_a_stage_that_hangs_is_ended_after_its_time_and_the_next_one_runs(run_course):
    """Its sentence is in the state, so that the fresh process does not begin it again."""
    code, state = run_course("time.sleep(600)", 0.1, grace=0.1)
    assert code == 0
    assert "hung" in state["timers"]["failed"]
    assert state["tests"] == {"ran": True}
    assert state["starts"]["timers"]["spent_s"] > 0
    assert "in_flight" not in state


def test_a_stage_whose_process_keeps_dying_is_given_up_and_the_next_one_runs(run_course):
    """Every death is counted, by the process that comes after it."""
    code, state = run_course("os.kill(os.getpid(), signal.SIGKILL)", 600.0, max_restarts=MAX_DEATHS)
    assert code == 0
    assert state["timers"] == {"failed": f"{MAX_DEATHS} processes died in it"}
    assert state["tests"] == {"ran": True}


def test_a_cap_holds_over_all_starts_of_a_stage(run_course):
    """A stage whose processes die has no more time in the end than one whose process lives."""
    dies_late = "course.left_s > 0 and (time.sleep(0.2), os.kill(os.getpid(), signal.SIGKILL))"
    code, state = run_course(dies_late, 0.3, max_restarts=MAX_DEATHS)
    assert code == 0
    assert state["timers"] == {"ran": True}
    assert 0 < state["starts"]["timers"]["deaths"] < MAX_DEATHS


def test_ranks_that_run_on_after_the_limit_are_killed(tmp_path, monkeypatch):
    """A process that nothing within it can end ends with the command, as a time-out."""
    (tmp_path / "deaf_rank.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert supervise("deaf_rank", 1, [], time_option="--slice", limit_s=0.1, overrun_s=0.1) == 124


def test_time_of_another_command_is_no_death(tmp_path):
    """A stage in flight of another command tells nothing: that command may have been ended from outside."""
    state = {"spent_s": 5.0, "runs": [], "starts": {}, "in_flight": {"stage": "timers", "began_s": 0.0}}
    state["told"] = {"parent": os.getppid() + 1, "at_s": 0.0}
    (tmp_path / "state.json").write_text(json.dumps(state))
    course = Course(tmp_path, slice_s=60.0, total_s=60.0, grace_s=1.0, started_s=1.0)
    assert course.state["starts"] == {}
    assert "in_flight" not in course.state


def test_the_caps_of_all_stages_fit_into_one_command():
    """Every stage has its cap, save the profile, which takes what is left; the interpreter and the end have 30 s."""
    stages = parse_stages(DEFAULT_STAGES)
    assert [stage.name for stage in stages if stage.cap_s is None] == [stages[-1].name] == ["profile"]
    assert sum(stage.cap_s for stage in stages[:-1]) <= 560 - 30


def test_products_and_plain_attention_have_sizes_of_the_imported_tables():
    """Each n, k and token count is one of the tables, so that the same kernel was timed by another tool."""
    (products,) = listed_points("products", "cuda", DTYPES)
    for op in products.ops:
        assert op.shape["n"] in TABLE_SIDES
        assert op.shape["k"] in TABLE_SIDES
        assert op.shape["m"] in TABLE_TOKENS
    _, plain = listed_points("attention", "cuda", DTYPES)
    sizes = {
        size for op in plain.ops for size in (op.shape["num_decode"], op.shape["decode_kv"], op.shape["prefill_q"])
    }
    assert all(size == 0 or size & (size - 1) == 0 for size in sizes)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_no_point_of_the_joules_or_clocks_is_measured_before_them(kind):
    """A stored point is not measured again: it would stay without joules, and its run without a clock."""
    lists = {stage: {op for one in listed_points(stage, kind, DTYPES) for op in one.ops} for stage in LISTS}
    parts = {part for step in anchor_steps(kind, DTYPES) for part in layer_ops(step)}
    for stage in ("joules", "clocks"):
        others = parts.union(*(ops for name, ops in lists.items() if name != stage))
        assert lists[stage]
        assert not lists[stage] & others


def test_a_power_model_gets_more_points_with_joules_than_it_needs():
    """Twelve rows below the power limit are needed; one of those planned is a large product, at it."""
    from costmodel.fitting.fit_power import FEWEST_ENERGY_ROWS

    (warm,) = listed_points("joules", "cuda", DTYPES)
    assert len(warm.ops) >= FEWEST_ENERGY_ROWS + 2


def test_every_chosen_test_of_a_gpu_exists_and_is_marked():
    """A name that no test has would end pytest before any ran."""
    for chosen in CHOSEN:
        file, _, name = chosen.partition("::")
        text = (Path(TESTS) / file).read_text()
        names = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
        assert name in names
        assert "pytest.mark.gpu" in text
