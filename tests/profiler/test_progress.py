"""The lines of a run, and what the outcome of one is: a real run of one rank over a plan, its clock aside."""

import pytest

pytest.importorskip("torch", reason="ranks exchange through torch")

import torch

from profiler.journal import Journal
from profiler.planning.planner import FixedPlan
from profiler.point import OpShape, Point
from profiler.progress import Progress
from profiler.ranks import RankPlace, Ranks
from profiler.run import Outcome, Run, StopSignal


def points(count):
    """GEMMs of many sizes."""
    ops = (
        OpShape.of("gemm", dtype="bf16", m=m, n=64, k=64, scaling="none", quantise=False) for m in range(1, count + 1)
    )
    return [Point(op=op, device="cpu", backend="b", launch="eager", cache="cold") for op in ops]


def a_run(folder, lines, budget_s=None):
    """Return the run of a rank alone that has just started."""
    return Run(
        ranks=Ranks(RankPlace(), torch.device("cpu")),
        journal=Journal(folder, 0),
        ledger=None,
        outcome=Outcome(device="cpu", run_id="r"),
        stop=StopSignal(),
        started_s=0.0,
        budget_s=budget_s,
        talk=lines.append,
    )


def test_a_line_comes_with_every_wait_also_while_no_point_ends(tmp_path):
    """Three waits of five seconds are three lines, a plan that was measured ends with one more."""
    lines, waits = [], []
    plan = FixedPlan(points(10), seed=0)

    def wait(seconds):
        waits.append(seconds)
        return len(waits) > 3

    with Progress(a_run(tmp_path, lines), plan, name="collectives: ", wait=wait) as progress:
        plan.learn((point, {}) for point in plan.next_points(4))
        progress.reach(4)
        progress.end_round()
    assert waits == [5.0] * 4
    assert len(lines) == 4
    assert all("] collectives: " in line for line in lines)
    assert "collectives: 4/10 points, at most" in lines[-1]


def test_a_line_counts_the_points_of_a_round_that_has_not_ended(tmp_path):
    """What ranks have taken since the plan was asked stands beside its words; the time to go stays in the budget."""
    plan = FixedPlan(points(10), seed=0)
    progress = Progress(a_run(tmp_path, [], budget_s=1e-9), plan)
    progress.end_round()
    assert "to go" not in progress.line()
    progress.reach(3)
    assert progress.line().endswith("0/10 points, 3 more measured, at most 0.0 s to go")


def test_a_rank_without_the_plan_says_nothing(tmp_path):
    """The plan is rank 0's, and so are the lines."""
    lines = []
    with Progress(a_run(tmp_path, lines), None) as progress:
        progress.reach(3)
        progress.end_round()
    assert lines == []


@pytest.mark.parametrize(
    ("facts", "is_empty"),
    [
        ({"left_out": ["4 points not reached"]}, True),
        ({"left_out": ["4 points not reached"], "measured": 1}, False),
        ({"left_out": ["4 points not reached"], "already": 1}, False),
        ({"left_out": ["4 points not reached"], "stopped_by": "SIGINT"}, False),
        ({}, False),
    ],
)
def test_a_run_is_empty_where_its_time_was_over_before_the_first_point(facts, is_empty):
    """Not where rows are there from before, nothing was to do, or a person stopped it."""
    assert Outcome(device="cpu", run_id="r", **facts).is_empty is is_empty
