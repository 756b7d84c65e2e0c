"""Which row answers which point of a plan."""

from dataclasses import replace

from profiler.planning.adaptive import AdaptivePlan
from profiler.point import OpShape, Point, answers


def points(count):
    """GEMMs of many sizes, planned as graphs."""
    ops = (OpShape.of("gemm", dtype="bf16", m=m, n=64, k=64, scaling="none", quantise=False) for m in range(1, count))
    return [Point(op=op, device="x", backend="b", launch="graph", cache="cold") for op in ops]


def row(point, status, latency_s=None):
    return point.family, {**point.columns, "status": status, "latency_s": latency_s}


def test_the_eager_row_answers_a_point_whose_graph_was_refused_in_either_order():
    """Of a refusal and a time the time counts; rows of other points count for nothing."""
    one, other = points(3)
    eager = row(replace(one, launch="eager"), "ok", 1e-3)
    refused, foreign = row(one, "unsupported"), row(other, "ok", 2e-3)
    for rows in ([refused, eager, foreign], [foreign, eager, refused]):
        assert answers([one], rows) == [(one, eager[1])]
    assert answers([one], [refused]) == [(one, refused[1])]
    assert answers([one, other], [foreign]) == [(other, foreign[1])]


def test_a_plan_over_kernels_that_cannot_be_captured_still_ends_early():
    """Eager times teach the plan as graphs do: a smooth series is settled with most of its points unmeasured."""
    series = points(400)
    plan = AdaptivePlan(series, target_error=0.02, seed=0)
    measured = 0
    while wanted := plan.next_points(24):
        rows = [row(point, "unsupported") for point in wanted]
        rows += [row(replace(point, launch="eager"), "ok", 1e-6 * (5 + point.op.shape["m"])) for point in wanted]
        plan.learn(answers(wanted, rows))
        measured += len(wanted)
    assert measured < 100
