"""Feed-forwards with degrees of their own: nothing is computed twice or lost, and only what is needed is sent."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.ops.expert_routing import unevenness_left
from costmodel.ops.op_types import Collective, Gemm, Moe, Op
from simulator.launch import launch_lines
from simulator.model.cells.mlp import Mlp
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.collectives import TokenShare
from simulator.model.load_model import load_model
from simulator.plan.plan import Plan, contradiction, parse_plan
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_DENSE = next(cell for cell in load_model("qwen3-32b").unique_blocks[0].cells if isinstance(cell, Mlp))
_MIXTURE = next(
    cell for cell in load_model("mixtral-8x7b").unique_blocks[0].cells if isinstance(cell, MixtureOfExperts)
)

_powers = st.sampled_from([1, 2, 4, 8])


def _sent(ops: list[Op]) -> list[tuple[str, int, int, int]]:
    found = [op for op in ops if isinstance(op, Collective)]
    return [(op.kind, int(op.message_bytes), op.ranks, op.group_stride) for op in found]


@given(attention_dp=_powers, tp=_powers, copies=st.sampled_from([1, 2, 4, 8, 16]), m=st.integers(1, 64))
def test_a_stage_computes_every_token_once_whatever_the_copies(attention_dp: int, tp: int, copies: int, m: int) -> None:
    """All devices of a stage together spend 2 FLOP per parameter and token of its attention ranks."""
    plan = Plan(attention_dp=attention_dp, tp=tp, mlp_dp=copies)
    if contradiction(plan) is not None:
        return
    tokens = 64 * m  # shared out evenly among any number of copies
    spent = sum(float(op.flop()) for op in _DENSE.token_ops(plan, tokens) if isinstance(op, Gemm)) * plan.stage_ranks
    assert spent == pytest.approx(2.0 * tokens * attention_dp * _DENSE.feed_forward.parameters(), rel=1e-9)


@given(attention_dp=_powers, tp=_powers, copies=_powers, ep=_powers, m=st.integers(1, 64))
def test_a_stage_routes_every_token_once_whatever_the_grid(
    attention_dp: int, tp: int, copies: int, ep: int, m: int
) -> None:
    """Experts over any grid and in any number of copies spend the FLOPs of the chosen experts of all tokens, once."""
    plan = Plan(attention_dp=attention_dp, tp=tp, moe_dp=copies, ep=ep)
    if contradiction(plan) is not None or _MIXTURE.refusal(plan) is not None:
        return
    tokens = 64 * m
    spent = sum(float(op.flop()) for op in _MIXTURE.token_ops(plan, tokens) if isinstance(op, Moe)) * plan.stage_ranks
    whole = sum(float(op.flop()) for op in _MIXTURE.token_ops(Plan(), tokens) if isinstance(op, Moe))
    assert spent == pytest.approx(whole * attention_dp, rel=1e-9)


@pytest.mark.parametrize(("cell", "axis"), [(_DENSE, "mlp"), (_MIXTURE, "moe")])
@pytest.mark.parametrize("copies", [1, 2, 4, 8])
def test_copies_take_the_memory_of_copies(cell: Mlp | MixtureOfExperts, axis: str, copies: int) -> None:
    """Eight devices hold as many copies of what is sharded as the plan says, and nothing else grows."""
    whole = parse_plan("tp8")
    kept = cell.weight_bytes(parse_plan(f"tp8-{axis}.dp{copies}")) - cell.weight_bytes(whole)
    matrices = (
        cell.feed_forward.weight_bytes(Plan())
        if isinstance(cell, Mlp)
        else cell.num_experts * 3 * cell.hidden * cell.inter * 2
    )
    assert kept == pytest.approx((copies - 1) * matrices / 8, rel=1e-6)


def test_one_feed_forward_behind_data_parallel_attention_gathers_and_scatters() -> None:
    """Four attention ranks of two devices: tokens are gathered and scattered with stride 2, and reduced over 2."""
    plan, m, row = parse_plan("attn.dp4-tp2-mlp.dp1"), 16, 5120 * 2
    assert _sent(_DENSE.token_ops(plan, m)) == [
        ("all_gather", 4 * m * row, 4, 2),
        ("reduce_scatter", 4 * m * row, 4, 2),
        ("all_reduce", m * row, 2, 1),
    ]


def test_copies_behind_tensor_parallel_attention_reduce_their_part_and_gather_all() -> None:
    """Two copies on eight devices: each sums half the tokens over its four devices, then both halves are gathered."""
    m, row = 16, 5120 * 2
    assert _sent(_DENSE.token_ops(parse_plan("tp8-mlp.dp2"), m)) == [
        ("all_reduce", m // 2 * row, 4, 1),
        ("all_gather", m * row, 2, 4),
    ]


@pytest.mark.parametrize("plan", ["tp8", "attn.dp4-tp2", "attn.dp8", "tp8-mlp.dp8", "attn.dp4-tp2-mlp.dp1"])
def test_what_several_attention_ranks_share_is_told_apart(plan: str) -> None:
    """Where tokens are gathered, matrices and transfers are in ``pooled_ops``; otherwise a dense cell has none."""
    layout = parse_plan(plan)
    pooled = _DENSE.pooled_ops(layout, np.array([8, 64]))
    assert bool(pooled) == (TokenShare.of(layout, layout.mlp_copies).gathered > 1)
    if pooled:
        assert sum(isinstance(op, Gemm) for op in pooled) == 2


@pytest.mark.parametrize(("model", "dcp"), [("deepseek-v3", 2), ("deepseek-v3", 8), ("qwen3-235b-a22b", 2)])
def test_ranks_that_share_the_cached_tokens_hold_and_read_a_part_of_them(model: str, dcp: int) -> None:
    """Each keeps 1/dcp of a token's bytes, and attends for the heads of all over as many fewer keys: the same FLOPs."""
    spec, whole, shared = load_model(model), parse_plan("tp8"), parse_plan(f"tp8-dcp{dcp}")
    assert spec.kv_bytes_per_token(shared) == spec.kv_bytes_per_token(whole) // dcp
    assert spec.stage_weight_bytes(shared) == spec.stage_weight_bytes(whole)
    for block in spec.unique_blocks:
        (alone,), (part,) = block.attention(whole), block.attention(shared)
        assert part.context_shares == dcp
        assert part.decode.num_heads == alone.decode.num_heads * dcp
        flop = [
            float(replace(call.decode, num_decode=4, decode_kv=keys, decode_kv_max=keys).flop())
            for call, keys in ((alone, 4096), (part, 4096 // dcp))
        ]
        assert flop[0] == pytest.approx(flop[1])


def test_ranks_that_share_the_cached_tokens_exchange_queries_and_results() -> None:
    """Queries of 32 heads and their log-sums are gathered by four ranks, results scattered, before the all-reduce."""
    attention = load_model("deepseek-v3").unique_blocks[0].cells[0]
    m, heads = 16, 128 // 8 * 4
    assert _sent(attention.token_ops(parse_plan("tp8-dcp4"), m)) == [
        ("all_gather", m * heads * 576 * 2, 4, 1),
        ("all_gather", m * heads * 4 * 4, 4, 1),
        ("reduce_scatter", m * heads * 512 * 2, 4, 1),
        ("all_reduce", m * 7168 * 2, 8, 1),
    ]


@pytest.mark.parametrize(
    ("model", "plan", "said"),
    [
        ("llama-3.1-70b", "tp8-dcp2", "must divide the ranks that hold the same of the 8 key/value heads: 1"),
        ("gpt-oss-120b", "tp8-dcp2", "where queries see some of the cached keys alone"),
        ("nemotron-h-8b", "tp8-dcp2", "keeps anything but keys and values"),
    ],
)
def test_what_no_rank_has_a_copy_of_is_not_shared_out(model: str, plan: str, said: str) -> None:
    """Decode context parallelism needs ranks that would hold the same keys, and nothing else kept."""
    assert said in (load_model(model).refusal(parse_plan(plan)) or "")


def test_a_shared_context_has_blocks_of_all_ranks_that_share_it() -> None:
    """Under vLLM eight ranks hold eight times the tokens of DeepSeek's latents, in blocks of eight times the tokens."""
    workload = parse_workload("synthetic:isl=550,osl=250,rate=4,n=20")
    serving = serving_of("deepseek-v3", "h200-sxm-8", "vllm-0.33")
    whole, shared = (start_of(serving, text, workload) for text in ("tp8", "tp8-dcp8"))
    assert shared.limits.block_size == 8 * whole.limits.block_size
    assert shared.server.block_size == whole.server.block_size
    assert shared.memory.kv_tokens == pytest.approx(8 * whole.memory.kv_tokens, rel=0.01)
    assert "--decode-context-parallel-size 8" in "\n".join(launch_lines(serving, shared))


def test_experts_held_twice_take_their_memory() -> None:
    """Eight experts more on eight ranks of whole experts are one more on each, and must share out evenly."""
    cells = [cell for block in load_model("deepseek-v3").unique_blocks for cell in block.cells]
    moe = next(cell for cell in cells if isinstance(cell, MixtureOfExperts))
    added = moe.weight_bytes(parse_plan("tp8-ep8-moe.redundant8")) - moe.weight_bytes(parse_plan("tp8-ep8"))
    assert added == pytest.approx(3 * moe.hidden * moe.inter, rel=0.001)  # one FP8 expert and its scales
    refusal = moe.refusal(parse_plan("tp8-ep8-moe.redundant9")) or ""
    assert "must divide the 256 experts and 9 held twice" in refusal


@given(ep=st.sampled_from([2, 4, 8, 16, 32]), copies=st.integers(0, 64))
def test_copies_of_experts_even_the_ranks_out(ep: int, copies: int) -> None:
    """The surplus left is a share, none for even routing, and under a tenth once each rank holds one expert more."""
    left = unevenness_left(256, 8, ep, "power_law_1.01", copies)
    assert 0.0 <= left <= 1.0
    assert unevenness_left(256, 8, ep, "balanced", copies) == 0.0
    if copies >= ep:
        assert left < 0.1


def test_experts_held_twice_take_less_time() -> None:
    """A plan with one expert more on each of 32 ranks is no slower at any number of tokens, and faster at many."""
    workload = parse_workload("synthetic:isl=550,osl=250,rate=4,n=20")
    serving = serving_of("deepseek-v3", "h200-sxm-4x8", "vllm-0.33")
    plain, evened = (
        start_of(serving, f"attn.dp32-moe.ep32{more}", workload).compiled.stages[0].pooled.latency_s
        for more in ("", "-moe.redundant32")
    )
    assert (evened <= plain * (1 + 1e-12)).all()
    assert evened[-1] < 0.95 * plain[-1]
