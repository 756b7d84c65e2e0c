"""The adaptive plan on latencies that are known everywhere, so that what it leaves out can be judged."""

import math
import random

import numpy as np

from costmodel.families.family import FEWEST_POINTS
from profiler.planning.adaptive import AdaptivePlan
from profiler.planning.coarse_grid import farthest_points
from profiler.planning.grid import attention_shape
from profiler.planning.planner import FixedPlan
from profiler.point import OpShape, Point


def gemm(m, n, k, dtype="bf16"):
    op = OpShape.of("gemm", dtype=dtype, m=m, n=n, k=k, scaling="none", quantise=False)
    return Point(op=op, device="cpu", backend="torch.onednn", launch="eager", cache="cold")


GRID = [gemm(m, n, k) for m in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) for n in (512, 1024, 4096) for k in (512, 2048)]


def decode(sequences, context, backend="torch.sdpa"):
    op = attention_shape("bf16", (8, 2, 64), decode=(sequences, context, context))
    return Point(op=op, device="cpu", backend=backend, launch="eager", cache="cold")


MANY = [decode(b, c, backend) for b in (1, 2, 4, 8) for c in (64, 128, 256, 512, 1024) for backend in ("one", "two")]


def all_reduce(message_bytes):
    op = OpShape.of(
        "collective", dtype="bf16", kind="all_reduce", ranks=2, nodes=1, level="memory", message_bytes=message_bytes
    )
    return Point(op=op, device="cpu", backend="gloo", launch="eager", cache="hot")


EXCHANGES = [all_reduce(1 << octave) for octave in range(10, 26)]


def latency_s(point, noise=0.0, draw=None):
    """Return a memory-bound floor that turns compute-bound, with multiplicative noise."""
    m, n, k = (point.op.shape[name] for name in "mnk")
    exact = 5e-6 + max(2 * m * n * k / 1e12, 2 * n * k / 1e11)
    return exact * math.exp(noise * draw.gauss(0, 1)) if draw else exact


def fulfil(plan, **noise):
    """Run a plan against the known latencies; returns the points it measured."""
    measured = []
    while batch := plan.next_points(8):
        plan.learn((point, {"status": "ok", "latency_s": latency_s(point, **noise)}) for point in batch)
        measured += batch
    return measured


def test_fixed_plan_measures_each_point_once_in_seeded_order():
    """Every point comes once; the same seed gives the same order, another seed another one."""
    orders = [[p.key for p in fulfil(FixedPlan(GRID, seed=seed))] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(p.key for p in GRID) == sorted(orders[2])


def test_adaptive_plan_stops_early_at_its_target():
    """A smooth law is settled with part of the grid, and the error it reports is at the target."""
    plan = AdaptivePlan(GRID, target_error=0.05, seed=0)
    measured = fulfil(plan)
    assert len({p.identity for p in measured}) == len(measured) < len(GRID)
    assert plan.error <= 0.05
    assert plan.remaining == len(GRID) - len(measured)
    assert "not measured, held-out error" in plan.left_out()[0]


def test_adaptive_plan_gives_up_chasing_noise():
    """Where the noise is above the target the plan still ends, at the noise, before the grid is exhausted."""
    dense = [gemm(m, n, k) for m in range(1, 65) for n in (512, 1024, 4096) for k in (512, 2048)]
    plan = AdaptivePlan(dense, target_error=0.001, seed=0)
    assert len(fulfil(plan, noise=0.1, draw=random.Random(3))) < len(dense) / 2


def test_points_that_fail_are_struck_off():
    """Points without a time are not asked for again, and a series of nothing else ends."""
    plan = AdaptivePlan(GRID, target_error=0.02, seed=0)
    asked = []
    while batch := plan.next_points(8):
        plan.learn((point, {"status": "unsupported", "latency_s": None}) for point in batch)
        asked += batch
    assert len(asked) == len(GRID) == len({p.identity for p in asked})


def test_a_resumed_plan_goes_on_where_it_was():
    """A plan that is told of stored rows never asks for them again and needs no more points in all."""
    first = AdaptivePlan(GRID, target_error=0.05, seed=0)
    known = first.next_points(10)
    rows = [(point, {"status": "ok", "latency_s": latency_s(point)}) for point in known]
    resumed = AdaptivePlan(GRID, target_error=0.05, seed=0)
    resumed.learn(rows)
    asked = fulfil(resumed)
    assert not {p.identity for p in asked} & {p.identity for p in known}


def test_a_short_budget_reaches_every_family():
    """The first points alternate over families and formats instead of following their sizes."""
    plan = AdaptivePlan([*GRID, *(gemm(m, 512, 512, "fp32") for m in (1, 2)), *MANY], target_error=0.05, seed=0)
    first = plan.next_points(6)
    assert {(p.family, p.op.dtype) for p in first} == {("gemm", "bf16"), ("gemm", "fp32"), ("attention", "bf16")}


def label(point):
    """Return what a fit tells apart: the kernel, and whether a GEMM fills its tiles."""
    size = point.op.shape.get("m", 0)
    return point.family, point.op.dtype, point.backend, size <= 16 or size % 8 == 0


def test_every_label_gets_what_a_fit_needs_before_any_gets_more():
    """Whenever the time ends, the labels begun last alone are without a fit; a seventh point waits for all of them."""
    ragged = [gemm(m, 512, 512) for m in range(17, 120, 9)]
    plan = AdaptivePlan([*GRID, *ragged, *MANY], target_error=0.02, seed=0)
    labels = {label(point) for point in (*GRID, *ragged, *MANY)}
    counts = dict.fromkeys(labels, 0)
    while min(counts.values()) < FEWEST_POINTS:
        batch = plan.next_points(5)
        for point in batch:
            counts[label(point)] += 1
        plan.learn((point, {"status": "ok", "latency_s": 1e-3}) for point in batch)
        unfinished = sum(0 < count < FEWEST_POINTS for count in counts.values())
        assert max(counts.values()) <= FEWEST_POINTS + 5 * (min(counts.values()) == FEWEST_POINTS)
    assert unfinished == 0
    assert len(labels) == 4


def test_a_kernel_that_refuses_every_point_is_not_tried_for_ever():
    """Points of the other labels come while most of the refused ones were never tried."""
    plan = AdaptivePlan([*GRID, *MANY], target_error=0.02, seed=0)
    refused = finished = 0
    while finished < 2 * FEWEST_POINTS:
        batch = plan.next_points(6)
        refused += sum(point.family == "gemm" for point in batch)
        finished += sum(point.family == "attention" for point in batch)
        ok = {"status": "ok", "latency_s": 1e-3}
        plan.learn((p, {"status": "oom", "latency_s": None} if p.family == "gemm" else ok) for p in batch)
    assert refused <= 2 * FEWEST_POINTS < len(GRID)


def test_no_point_takes_far_more_than_its_part_of_the_time_left():
    """What is long for the budget waits; with more time, or with none to keep, it is among the first."""
    for spendable_s, begins_long in ((1.0, False), (1e4, True), (None, True)):
        plan = AdaptivePlan([gemm(2**i, 4096, 4096) for i in range(20)], target_error=0.02, seed=0)
        measured = []
        while len(measured) < FEWEST_POINTS:
            batch = plan.next_points(24, spendable_s)
            plan.learn((point, {"status": "ok", "latency_s": latency_s(point)}) for point in batch)
            measured += map(latency_s, batch)
        assert len(measured) == FEWEST_POINTS
        assert (max(measured) > 1.0 / FEWEST_POINTS) is begins_long


def test_what_a_step_asks_for_is_tried_once_quick_calls_have_told_the_rates():
    """Of a kernel whose calls all take the same time, the first alone makes the largest seem too long for a budget."""
    points = [gemm(1 << octave, 4096, 2048) for octave in range(13)]
    asked_by_a_step = points[-1]
    plan = AdaptivePlan(points, target_error=0.02, seed=0, shares={asked_by_a_step.op: 0.5})
    measured = []
    while len(measured) < FEWEST_POINTS:
        batch = plan.next_points(24, 60.0)
        plan.learn((point, {"status": "ok", "latency_s": 0.05}) for point in batch)
        measured += batch
    assert asked_by_a_step in measured
    assert len(measured) == FEWEST_POINTS


def test_points_come_in_the_order_of_their_share_of_a_step():
    """The series of the largest share is served first, its heavy points among its six; then the points of the steps."""
    heavy = {gemm(512, 4096, 2048).op: 0.4, gemm(1, 4096, 2048).op: 0.2}
    light = {gemm(m, 1024, 512).op: 0.01 * m for m in (2, 4, 8)}
    shares = heavy | light | {decode(8, 1024).op: 0.1}
    plan = AdaptivePlan([*MANY, *GRID], target_error=0.02, seed=0, shares=shares)
    assert [label(point)[:3] for point in plan.next_points(1)] == [("gemm", "bf16", "torch.onednn")]
    measured = []
    while not shares.keys() <= {point.op for point in measured}:
        batch = plan.next_points(4)
        plan.learn((point, {"status": "ok", "latency_s": 1e-3}) for point in batch)
        measured += batch
    needed, of_steps = measured[: 3 * FEWEST_POINTS], measured[3 * FEWEST_POINTS :]
    assert heavy.keys() <= {point.op for point in needed[: FEWEST_POINTS + 2]}
    assert sum(point.family == "gemm" for point in needed) == FEWEST_POINTS
    left = [shares[point.op] for point in of_steps]
    assert left == sorted(left, reverse=True)
    assert left


def test_collectives_get_what_a_fit_needs_in_the_order_of_their_share():
    """They wait for labels of larger shares, come before those of smaller ones, and none waits for a coarse grid."""
    shares = {gemm(512, 4096, 2048).op: 0.5, all_reduce(1 << 20).op: 0.3, decode(8, 1024).op: 0.2}
    plan = AdaptivePlan([*EXCHANGES, *MANY, *GRID], target_error=0.02, seed=0, shares=shares, ranks=2)
    measured = []
    while len(measured) < 4 * FEWEST_POINTS:
        batch = plan.next_points(4)
        plan.learn((point, {"status": "ok", "latency_s": 1e-3}) for point in batch)
        measured += batch
    families = [point.family for point in measured[4:]]  # the smallest of each label come first
    assert families == ["gemm"] * 5 + ["collective"] * 5 + ["attention"] * 10


def test_a_collective_counts_as_often_as_it_has_ranks():
    """What a compute point may take of the time left is too long for a collective that keeps eight ranks busy."""
    for points, ranks, begins_long in ((EXCHANGES, 1, True), (EXCHANGES, 8, False)):
        plan = AdaptivePlan(points, target_error=0.02, seed=0, ranks=ranks)
        plan.learn((point, {"status": "ok", "latency_s": 0.01}) for point in plan.next_points(24, 10.0))
        longest = max(point.op.shape["message_bytes"] for point in plan.next_points(24, 500.0))
        assert (longest > 1 << 18) is begins_long


def test_points_of_a_step_do_not_stand_for_the_sizes_between_them():
    """A step asks for every product at two sizes; the plan measures its coarse grid at other sizes all the same."""
    shapes = [(n, k) for n in (512, 1024, 2048, 4096) for k in (512, 1024, 2048)]
    sizes = [2**octave for octave in range(12)]
    points = [gemm(m, n, k) for m in sizes for n, k in shapes]

    def time_s(point):
        m, n, k = (point.op.shape[side] for side in "mnk")
        return max(2.0 * m * n * k / 1e12, 2.0 * n * k / 1e10) + 1e-5

    of_steps = {gemm(m, n, k).op: 0.01 for m in (64, 2048) for n, k in shapes}
    plan = AdaptivePlan(points, target_error=0.02, seed=0, shares=of_steps)
    measured = []
    while batch := plan.next_points(4):
        plan.learn((point, {"status": "ok", "latency_s": time_s(point)}) for point in batch)
        measured += batch
    assert of_steps.keys() <= {point.op for point in measured}
    assert sum(point.op not in of_steps for point in measured) >= 12


def test_farthest_points_take_the_corners_first():
    """The coarse grid starts at the extremes of the range."""
    x = np.array([[0.0], [1.0], [2.0], [3.0], [9.0]])
    assert farthest_points(x, 2) == [0, 4]
    assert farthest_points(x, 1, taken=x[:1]) == [4]
