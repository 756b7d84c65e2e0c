"""Fitted prices of scans: measured points verbatim, curves between, and what is derived from them, each by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from costmodel.cost_model import Source
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.op_types import Scan
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import open_store

from .conftest import DEVICE, common

_TOKENS = np.array([1, 16, 64, 256, 1024, 4096, 16384])
_SEQUENCES = np.array([1, 2, 4, 8, 16, 64, 256])


def _scan(heads: int, **changes: Any) -> Scan:
    sizes = {"num_heads": heads, "num_groups": heads // 4, "head_dim": 128, "state_dim": 128, "chunk": 64}
    return Scan(variant="gated_delta", **(sizes | changes))


def _rows(cluster: ClusterSpec, heads: int) -> list[dict[str, Any]]:
    """Imagine a machine 1.3 times as slow as the analytic one."""
    costs, rows = AnalyticCosts(cluster), []
    for phase, count, size, knots in (
        ("prefill", "num_prefill", "prefill_q", _TOKENS),
        ("decode", "decode_q", "num_decode", _SEQUENCES),
    ):
        for knot in knots.tolist():
            op = _scan(heads, **{count: 1, size: knot})
            shape = {name: getattr(op, name) for name in Scan.__slots__ if name != "dtype"}
            rows.append(common(1.3 * float(costs.predict(op).latency_s), backend="triton", phase=phase) | shape)
    return rows


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSpec) -> FittedCosts:
    """Fit scans of two numbers of heads."""
    folder: Path = tmp_path_factory.mktemp("scans")
    store = open_store(folder, bundled=None)
    store.append("scan", [row for heads in (16, 64) for row in _rows(cluster, heads)], "run-1")
    return FittedCosts(fit_device(store, DEVICE, cluster), cluster)


@pytest.mark.parametrize("heads", [16, 64])
def test_measured_points_come_back_verbatim(costs: FittedCosts, cluster: ClusterSpec, heads: int) -> None:
    """Prompts and decode steps that were measured are returned to the last bit."""
    for op in (_scan(heads, num_prefill=1, prefill_q=_TOKENS), _scan(heads, num_decode=_SEQUENCES)):
        found = costs.predict(op)
        assert (found.source == Source.MEASURED).all()
        assert found.latency_s == pytest.approx(1.3 * AnalyticCosts(cluster).predict(op).latency_s, rel=1e-12)


def test_between_points_and_for_other_heads_the_truth_is_near(costs: FittedCosts, cluster: ClusterSpec) -> None:
    """Other sizes are within 10 % of the machine and labelled fitted; other heads borrow and are within 25 %."""
    for heads, limit, source in ((16, 0.1, Source.FITTED), (32, 0.25, Source.BORROWED)):
        for op in (
            _scan(heads, num_prefill=1, prefill_q=np.array([40, 700, 9000])),
            _scan(heads, num_decode=np.array([3, 24, 100])),
        ):
            found = costs.predict(op)
            assert (found.source == source).all()
            assert found.latency_s == pytest.approx(1.3 * AnalyticCosts(cluster).predict(op).latency_s, rel=limit)


def test_several_prompts_cost_their_tokens(costs: FittedCosts) -> None:
    """Four prompts of 256 tokens are one of 1,024, and labelled as derived."""
    four = costs.predict(_scan(16, num_prefill=4, prefill_q=256))
    one = costs.predict(_scan(16, num_prefill=1, prefill_q=1024))
    assert float(four.latency_s) == float(one.latency_s)
    assert (int(four.source), int(one.source)) == (Source.BORROWED, Source.MEASURED)


def test_drafts_cost_more_than_one_token_and_less_than_as_many_steps(costs: FittedCosts) -> None:
    """Three queries of a sequence read its state once and write it thrice."""
    one, three = (costs.predict(_scan(64, num_decode=256, decode_q=queries)) for queries in (1, 3))
    assert float(one.latency_s) < float(three.latency_s) < 3 * float(one.latency_s)
    assert int(three.source) == Source.BORROWED


@pytest.mark.parametrize(
    "changes", [{"variant": "mamba2"}, {"state_dtype": "bf16"}, {"num_prefill": 1, "prefill_q": 8}]
)
def test_what_was_not_measured_is_analytic(costs: FittedCosts, changes: dict[str, Any]) -> None:
    """Another kind or state format has no knots, and no engine runs both phases in one call."""
    assert int(costs.predict(replace(_scan(16, num_decode=8), **changes)).source) == Source.ANALYTIC
