"""A device under a power limit draws no more than that, and is slower for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster, load_device
from costmodel.bundled_fits import choose_costs
from costmodel.cost_model import CostModel, Source
from costmodel.ops.op_types import Attention, Collective, Gemm, Op

OPS: tuple[Op, ...] = (
    Gemm(m=np.array([1, 64, 512, 8192]), n=8192, k=8192),
    Attention(
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_decode=np.array([1, 64]),
        decode_kv=np.array([1024, 4096]),
        decode_kv_max=np.array([1024, 4096]),
    ),
    Collective(kind="all_reduce", message_bytes=np.array([1e3, 1e8]), ranks=8),
)


def _costs(cap_w: float | None, choice: str | None = None) -> CostModel:
    cluster = load_cluster("h100-sxm-8")
    device = cluster.device.model_copy(update={"power_cap_w": cap_w})
    return choose_costs(choice, cluster.model_copy(update={"device": device}))


@pytest.mark.parametrize("choice", [None, "analytic"])
@pytest.mark.parametrize("op", OPS, ids=["gemm", "decode", "all-reduce"])
def test_a_lower_limit_is_never_exceeded_and_never_faster(op: Op, choice: str | None) -> None:
    """Mean power stays at the limit or below, time rises as it falls, and what moved is no longer called measured."""
    before: Any = None
    for cap_w in (700.0, 550.0, 400.0, 250.0, 120.0):
        found = _costs(cap_w, choice).predict(op)
        assert np.all(found.energy_j <= cap_w * found.latency_s * (1 + 1e-6))
        assert np.all((found.low_s <= found.latency_s) & (found.latency_s <= found.high_s))
        if before is not None:
            assert np.all(found.latency_s >= before.latency_s * (1 - 1e-12))
            moved = found.latency_s > before.latency_s
            assert not np.any(found.source[moved] == Source.MEASURED)
        before = found


def test_a_limit_at_tdp_changes_nothing() -> None:
    """The board's own limit is what every price already keeps."""
    for op in OPS:
        one, other = _costs(None).predict(op), _costs(700.0).predict(op)
        assert np.array_equal(one.latency_s, other.latency_s)
        assert np.array_equal(one.energy_j, other.energy_j)


def test_memory_bound_work_hardly_feels_a_limit_that_arithmetic_does() -> None:
    """At 400 of 700 W a weight-bound GEMM keeps its time within 1 %, a large one takes 1.1 to 1.4 times as long."""
    free, capped = (_costs(cap_w).predict(OPS[0]).latency_s for cap_w in (None, 400.0))
    ratio = capped / free
    assert ratio[0] == pytest.approx(1.0, abs=0.01)
    assert 1.1 < ratio[-1] < 1.4
    assert "power capped at 400 W" in _costs(400.0).origin


@pytest.mark.parametrize("cap", ["701", "70", "true"])
def test_a_limit_that_cannot_be_is_refused(cap: str, tmp_path: Path) -> None:
    """The limit lies between idle power and TDP."""
    own = (Path(__file__).parents[2] / "cluster_specs/devices/h100-sxm.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(own.replace("idle_w = 70\n", f"idle_w = 70\npower_cap_w = {cap}\n"))
    with pytest.raises(UserError, match="power_cap_w"):
        load_device(str(path))
    path.write_text(own.replace("idle_w = 70\n", "idle_w = 70\npower_cap_w = 400\n"))
    assert load_device(str(path)).power_cap_w == 400
