"""FLOP and byte counts of ops against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.ops.op_types import Attention, Collective, Elementwise, Gemm, Moe, bus_factor


def test_gemm_counts_two_flop_per_multiply_add_and_each_operand_once() -> None:
    """A 3 x 5 x 7 GEMM: 210 FLOP; bf16 moves two bytes of every element, fp8 one byte of inputs."""
    assert Gemm(m=3, n=5, k=7).flop() == 2 * 3 * 5 * 7
    assert Gemm(m=3, n=5, k=7).io_bytes() == 2 * (3 * 7 + 5 * 7 + 3 * 5)
    assert Gemm(m=3, n=5, k=7, dtype="fp8").io_bytes() == 3 * 7 + 5 * 7 + 2 * 3 * 5


@given(q=st.integers(1, 40), prefix=st.integers(0, 40), window=st.one_of(st.just(0), st.integers(1, 60)))
def test_causal_pairs_equal_the_mask_counted_cell_by_cell(q: int, prefix: int, window: int) -> None:
    """The closed form of the windowed causal triangle agrees with the mask itself."""
    kv = prefix + q
    query = np.arange(q)[:, None] + prefix
    key = np.arange(kv)[None, :]
    mask = key <= query
    if window:
        mask &= key > query - window
    op = Attention(
        num_heads=1, num_kv_heads=1, head_dim=1, v_head_dim=1, window=window, num_prefill=1, prefill_q=q, prefill_kv=kv
    )
    assert op.prefill_pairs() == mask.sum()
    seen = mask.any(axis=0).sum()
    q_and_out_bytes = 2.0 * q * 2
    assert op.io_bytes() == q_and_out_bytes + seen * 2 * 2


def test_decode_reads_keys_and_values_of_every_sequence_once() -> None:
    """64 sequences of 1,000 tokens, 8 KV heads of 128: 64 x 1,000 x 8 x 256 x 2 bytes plus queries and results."""
    op = Attention(num_heads=64, num_kv_heads=8, head_dim=128, v_head_dim=128, num_decode=64, decode_kv=1000)
    assert op.io_bytes() == 64 * 1000 * 8 * 256 * 2 + 2 * 64 * 64 * 256
    assert op.phase == "decode"


def test_moe_reads_only_the_experts_its_tokens_hit() -> None:
    """One token of top-8 hits eight experts' weights; very many tokens hit all of them."""
    shape = {"hidden": 64, "inter": 32, "num_experts": 128, "topk": 8}
    assert float(Moe(num_tokens=1, **shape).active_experts()) == pytest.approx(8)
    assert float(Moe(num_tokens=100_000, **shape).active_experts()) == pytest.approx(128)
    assert float(Moe(num_tokens=1, ep=8, **shape).routed_tokens()) == pytest.approx(1)


def test_bus_factors_are_those_of_nccl_tests() -> None:
    """All-reduce moves 2 (n - 1) / n of the message, gathers and scatters (n - 1) / n, a send all of it."""
    assert bus_factor("all_reduce", 8) == 1.75
    assert bus_factor("all_gather", 8) == bus_factor("reduce_scatter", 8) == bus_factor("all_to_all", 8) == 0.875
    assert bus_factor("send_recv", 2) == 1.0
    with pytest.raises(ValueError, match="barrier"):
        bus_factor("barrier", 2)


def test_counts_broadcast_over_arrays() -> None:
    """One op object stands for a curve: arrays give arrays of the same shape."""
    m = np.array([1, 2, 3])
    assert Gemm(m=m, n=4, k=5).flop().tolist() == [40.0, 80.0, 120.0]
    assert Elementwise(op="rope", rows=m, width=8, bytes_per_row=32.0).io_bytes().tolist() == [32.0, 64.0, 96.0]
    assert Collective(kind="all_gather", message_bytes=m, ranks=2).wire_bytes().tolist() == [0.5, 1.0, 1.5]
