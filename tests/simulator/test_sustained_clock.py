"""Power-limited clocks slow arithmetic down, and nothing else."""

import numpy as np
import pytest

from cluster_specs.load import load_cluster
from costmodel.ops.op_types import Collective, Gemm
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.steps.op_curves import OpCurves
from simulator.steps.sustained_clock import SustainedClock

_CLUSTER = load_cluster("h100-sxm-8")
_SLOWDOWN_FRAC = 0.14


def test_only_arithmetic_slows_down() -> None:
    """A large GEMM takes the whole slowdown, a weight-bound one next to none, a transfer exactly none."""
    costs = AnalyticCosts(_CLUSTER)
    large, small = (Gemm(m=m, n=8192, k=8192, dtype="bf16") for m in (32768, 1))
    moved = Collective(kind="all_reduce", message_bytes=1 << 26, ranks=8, dtype="bf16")
    curves = OpCurves(costs, sustained_slowdown_frac=_SLOWDOWN_FRAC)
    factor = {op: float(curves.price(op).latency_s / costs.predict(op).latency_s) for op in (large, small, moved)}
    assert factor[large] == pytest.approx(1 + _SLOWDOWN_FRAC, abs=0.01)
    assert 1.0 <= factor[small] < 1.002
    assert factor[moved] == 1.0


def test_a_locked_clock_stays_where_it_is() -> None:
    """Below the power cap there is nothing to give up."""
    op = Gemm(m=np.array([32768]), n=8192, k=8192, dtype="bf16")
    flop, latency_s = np.asarray(op.flop()), np.array([5e-3])
    locked, free = (SustainedClock(_CLUSTER.device, mhz, _SLOWDOWN_FRAC) for mhz in (1410.0, None))
    assert locked.factor(locked.busy_frac(op, flop, latency_s)) is None
    slower = free.factor(free.busy_frac(op, flop, latency_s))
    assert slower is not None
    assert slower > 1.1
