"""Scans: work and bytes of chunks and steps against counts by hand, and analytic prices that follow them."""

import numpy as np
import pytest

from cluster_specs.load import load_cluster
from costmodel.ops.op_types import Scan
from costmodel.ops.roofline import roofline
from costmodel.pricing.analytic_costs import AnalyticCosts

_MAMBA = Scan(variant="mamba2", num_heads=8, num_groups=2, head_dim=16, state_dim=32, chunk=4)
_DELTA = Scan(variant="gated_delta", num_heads=8, num_groups=2, head_dim=16, state_dim=32, chunk=4)
_STATE = 8 * 16 * 32


def _prefill(op: Scan, q: int, count: int = 1) -> Scan:
    return Scan(**{name: getattr(op, name) for name in op.__slots__} | {"num_prefill": count, "prefill_q": q})


def _decode(op: Scan, count: int, queries: int = 1) -> Scan:
    return Scan(**{name: getattr(op, name) for name in op.__slots__} | {"num_decode": count, "decode_q": queries})


def test_a_prompt_of_state_space_counts_chunks_and_states() -> None:
    """Ten tokens in chunks of four are pairs 10 + 10 + 3; each token meets the state twice, each chunk passes it on."""
    pairs = 10 + 10 + 3
    expected = 2 * pairs * (2 * 32 + 8 * 16) + 4 * 10 * _STATE + 2 * 3 * _STATE
    assert float(_prefill(_MAMBA, 10).flop()) == expected
    assert float(_prefill(_MAMBA, 10, count=3).flop()) == 3 * expected


def test_a_prompt_of_the_gated_delta_rule_counts_its_inverses() -> None:
    """Two scores per group, three products per head, a triangle's inverse per chunk, three passes over the state."""
    pairs, inverse = 10 + 10 + 3, 8 * (4**3 + 4**3 + 2**3) / 3
    products = 2 * pairs * (2 * 2 * 32 + 8 * 32 + 2 * 8 * 16)
    assert float(_prefill(_DELTA, 10).flop()) == pytest.approx(products + inverse + 6 * 10 * _STATE + 3 * _STATE)


@pytest.mark.parametrize(("op", "per_element", "scalars"), [(_MAMBA, 5, 1), (_DELTA, 7, 2)])
def test_a_step_reads_and_writes_its_state(op: Scan, per_element: int, scalars: int) -> None:
    """Five sequences: the fp32 state twice each, the token's inputs and results once in 16 bits, fp32 scalars."""
    step = _decode(op, 5)
    assert float(step.flop()) == 5 * per_element * _STATE
    assert float(step.io_bytes()) == 5 * (2 * 4 * _STATE + 2 * 2 * (8 * 16 + 2 * 32) + 4 * 8 * scalars)


def test_drafts_write_a_state_per_token() -> None:
    """A sequence of three queries reads its state once and keeps one per token, so that drafts can be dropped."""
    one, three = float(_decode(_MAMBA, 1).io_bytes()), float(_decode(_MAMBA, 1, queries=3).io_bytes())
    assert three - 3 * one == -2 * 4 * _STATE


def test_a_prompt_moves_its_state_once() -> None:
    """Bytes grow by tokens; the state is read and written once per prompt, however long it is."""
    lengths = np.array([1, 10, 1000])
    moved = _prefill(_MAMBA, 1).io_bytes() - float(_prefill(_MAMBA, 0).io_bytes())
    long = Scan(
        variant="mamba2",
        num_heads=8,
        num_groups=2,
        head_dim=16,
        state_dim=32,
        chunk=4,
        num_prefill=1,
        prefill_q=lengths,
    )
    assert long.io_bytes() == pytest.approx(float(moved) * lengths + 2 * 4 * _STATE)


def test_analytic_prices_keep_above_the_roofline_and_grow() -> None:
    """No price beats the device; more tokens or sequences take no less time; a whole grid is priced at once."""
    cluster = load_cluster("h100-sxm-8")
    costs = AnalyticCosts(cluster)
    sizes = np.array([1, 8, 64, 512, 4096])
    shape = {"num_heads": 64, "num_groups": 8, "head_dim": 64, "state_dim": 128, "chunk": 128}
    for variant in ("mamba2", "gated_delta"):
        for counts in ({"num_prefill": 1, "prefill_q": sizes}, {"num_decode": sizes}):
            op = Scan(variant=variant, **shape, **counts)
            found = costs.predict(op)
            assert (found.latency_s > roofline(op, cluster).floor_s).all()
            assert (np.diff(found.latency_s) > 0).all()
            assert (found.low_s < found.latency_s).all()
            assert (found.energy_j > 0).all()
