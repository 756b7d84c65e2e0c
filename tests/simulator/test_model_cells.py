"""What one rank runs and holds: FLOPs, weights and transfers of cells under a plan."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.ops.op_types import Collective, Elementwise, Gemm, Moe, Op
from simulator.model.cell import CELL_KINDS, Cell, KernelChoices, kind_of
from simulator.model.cells.gated_delta import GatedDelta
from simulator.model.load_model import bundled_models, load_model
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan, parse_plan

DENSE = ["llama-3.1-8b", "llama-3.1-405b", "mistral-nemo-12b", "qwen2.5-7b", "qwen3-32b", "gemma-3-12b", "yi-34b"]
UNQUANTISED = [*DENSE, "mixtral-8x7b", "qwen3-30b-a3b"]

_models = st.sampled_from(bundled_models())
_degrees = st.sampled_from([1, 2, 4, 8])


def _matrix_flop(ops: list[Op]) -> float:
    return sum(float(np.sum(op.flop())) for op in ops if isinstance(op, Gemm | Moe))


def _layout(model: ModelSpec, tp: int, attention_dp: int, *, whole_experts: bool) -> Plan:
    if not model.has_experts:
        return Plan(tp=tp)
    return Plan(tp=tp, attention_dp=attention_dp, ep=tp * attention_dp if whole_experts else 1)


@given(name=st.sampled_from(DENSE), tp=_degrees, m=st.integers(1, 8192))
def test_flop_of_a_dense_layer_is_two_per_parameter_and_token(name: str, tp: int, m: int) -> None:
    """Over all tensor ranks a dense block spends 2 FLOP per parameter and token (norms and biases are under 0.1 %)."""
    model, plan = load_model(name), Plan(tp=tp)
    if model.refusal(plan) is not None:
        return
    for block in model.unique_blocks:
        spent = _matrix_flop(block.token_ops(plan, m)) * tp
        expected = 2.0 * m * block.parameters()
        if all(getattr(cell, "num_kv_heads", tp) >= tp for cell in block.cells):
            assert spent == pytest.approx(expected, rel=1e-3)
        else:  # keys and values are computed on several ranks
            assert spent > expected


@given(name=st.sampled_from(["mixtral-8x7b", "qwen3-235b-a22b", "gpt-oss-120b"]), tp=_degrees, m=st.integers(64, 4096))
def test_flop_of_a_mixture_is_two_per_active_parameter(name: str, tp: int, m: int) -> None:
    """A mixture spends 2 FLOP per *active* parameter; routers, run on every rank, and biases are under 4 %."""
    model, plan = load_model(name), Plan(tp=tp)
    for block in model.unique_blocks:
        mixture = block.cells[-1]
        spent = _matrix_flop(mixture.token_ops(plan, m)) * tp
        assert spent == pytest.approx(2.0 * m * mixture.active_parameters(), rel=0.04)


@given(name=_models, tp=_degrees, m=st.integers(1, 4096))
def test_an_array_of_token_counts_is_the_same_as_each_alone(name: str, tp: int, m: int) -> None:
    """Evaluating a curve at many token counts gives what each count gives by itself."""
    model, plan = load_model(name), Plan(tp=tp)
    if model.refusal(plan) is not None:
        return
    counts = np.array([1, m, 2 * m], dtype=np.int64)
    for block in model.unique_blocks:
        curve = block.token_ops(plan, counts)
        alone = block.token_ops(plan, m)
        assert [type(op) for op in curve] == [type(op) for op in alone]
        for many, one in zip(curve, alone, strict=True):
            if isinstance(many, Collective) and isinstance(one, Collective):
                assert np.asarray(many.message_bytes)[1] == one.message_bytes
            elif not isinstance(many, Collective) and not isinstance(one, Collective):
                assert np.asarray(many.io_bytes())[1] == pytest.approx(float(one.io_bytes()))


@given(name=_models, tp=_degrees, attention_dp=st.sampled_from([1, 2, 4]), pp=_degrees, whole_experts=st.booleans())
def test_ranks_together_hold_at_least_the_model(
    name: str, tp: int, attention_dp: int, pp: int, whole_experts: bool
) -> None:
    """No plan loses weights: the bytes of all ranks are at least those of one rank that holds everything."""
    model = load_model(name)
    layout = _layout(model, tp, attention_dp, whole_experts=whole_experts)
    plan = Plan(pp=pp, tp=layout.tp, attention_dp=layout.attention_dp, ep=layout.ep)
    if model.refusal(plan) is not None:
        return
    whole = sum(model.stage_weight_bytes(Plan()))
    assert sum(model.stage_weight_bytes(plan)) * plan.stage_ranks >= whole * (1 - 1e-6)


@given(name=st.sampled_from(UNQUANTISED), tp=st.sampled_from([2, 4]))
def test_only_norms_routers_and_row_biases_are_replicated(name: str, tp: int) -> None:
    """What tp ranks hold beyond one copy is (tp - 1) times the replicated parts, and those are small."""
    model = load_model(name)
    for block in model.unique_blocks:
        extra = tp * block.weight_bytes(Plan(tp=tp)) - block.weight_bytes(Plan())
        replicated, left = divmod(extra, tp - 1)
        assert left == 0
        assert 0 < replicated <= 2 * (6 * model.hidden_size + 1024) + _router_bytes(block.cells, model.hidden_size)


def _router_bytes(cells: tuple[Cell, ...], hidden: int) -> int:
    return sum(2 * hidden * getattr(cell, "num_experts", 0) for cell in cells)


@pytest.mark.parametrize("name", UNQUANTISED)
def test_bytes_of_one_rank_are_two_per_parameter(name: str) -> None:
    """On one rank a 16-bit model holds two bytes per parameter, plus at most the padding of the vocabulary."""
    model = load_model(name)
    extra = sum(model.stage_weight_bytes(Plan())) - 2 * model.parameters()
    assert 0 <= extra <= 2 * 2 * 63 * model.hidden_size


def test_llama_layer_is_the_eleven_known_kernels() -> None:
    """A 70B layer on 4 ranks runs the kernels an engine's trace shows, with the shapes its weights have."""
    (block,) = load_model("llama-3.1-70b").unique_blocks
    ops = block.token_ops(Plan(tp=4), 256)
    gemms = [(op.n, op.k) for op in ops if isinstance(op, Gemm)]
    assert gemms == [(2560, 8192), (8192, 2048), (14336, 8192), (8192, 7168)]
    assert [op.op for op in ops if isinstance(op, Elementwise)] == [
        "add_rmsnorm",
        "rope",
        "kv_write",
        "add_rmsnorm",
        "silu_mul",
    ]
    assert [(op.kind, op.message_bytes, op.ranks) for op in ops if isinstance(op, Collective)] == [
        ("all_reduce", 256 * 8192 * 2, 4)
    ] * 2


def test_key_value_heads_are_replicated_below_one_per_rank() -> None:
    """Four key/value heads on 8 ranks: each rank holds one, so the ranks together cache them twice."""
    model = load_model("qwen3-235b-a22b")
    cell = model.unique_blocks[0].cells[0]
    call = cell.attention(Plan(tp=8))
    assert call is not None
    assert (call.decode.num_heads, call.decode.num_kv_heads) == (8, 1)
    assert 8 * cell.kv_bytes_per_token(Plan(tp=8)) == 2 * cell.kv_bytes_per_token(Plan())


def test_latent_attention_expands_for_prefill_and_absorbs_for_decode() -> None:
    """MLA decodes as MQA over a 576-wide latent and prefills with 192/128-wide heads, expanding cached context."""
    cell = load_model("deepseek-v3").unique_blocks[0].cells[0]
    call = cell.attention(Plan(tp=8))
    assert call is not None
    decode, prefill = call.decode, call.prefill
    assert (decode.num_heads, decode.num_kv_heads, decode.head_dim, decode.v_head_dim) == (16, 1, 576, 512)
    assert (prefill.num_heads, prefill.num_kv_heads, prefill.head_dim, prefill.v_head_dim) == (16, 16, 192, 128)
    assert decode.variant == "mla"
    assert call.context_gemm is not None
    assert (call.context_gemm.n, call.context_gemm.k) == (16 * (128 + 128), 512)
    assert cell.kv_bytes_per_token(Plan(tp=8)) == cell.kv_bytes_per_token(Plan()) == 576 * 2


def test_linear_attention_moves_its_state_and_caches_nothing() -> None:
    """Qwen3.5: a decode step reads and writes 64 matrices of 128 x 128 in fp32, and attends to nothing."""
    model = load_model("qwen3.5-397b-a17b")
    assert [count for _, count in model.blocks] == [3, 1] * 15
    linear, full = model.unique_blocks[0].cells[0], model.unique_blocks[1].cells[0]
    assert isinstance(linear, GatedDelta)
    scan = linear.scan(Plan())
    assert linear.attention(Plan()) is None
    assert scan.state_elements == 64 * 128 * 128
    assert (scan.num_groups, scan.chunk, scan.state_dtype) == (16, 64, "fp32")
    assert linear.kv_bytes_per_token(Plan()) == 0
    assert linear.kv_bytes_per_request(Plan(tp=8)) == (64 * 128 * 128 * 4 + (2 * 16 + 64) * 128 * 3 * 2) / 8
    gated, plain = (op for op in full.token_ops(Plan(), 8) if isinstance(op, Gemm))
    assert (gated.n, plain.k) == ((2 * 32 + 2 * 2) * 256, 32 * 256)


def test_sparse_attention_scores_every_key_and_reads_the_chosen_ones() -> None:
    """DeepSeek-V3.2: 64 fp8 heads score all keys on every rank; attention sees 2,048, and nothing leaves the cache."""
    model, plan = load_model("deepseek-v3.2"), Plan(tp=8)
    indexer, attention, _ = model.unique_blocks[0].cells
    scores, chosen = indexer.attention(plan), attention.attention(plan)
    assert scores is not None
    assert (scores.decode.num_heads, scores.decode.num_kv_heads, scores.decode.window) == (64, 1, 0)
    assert chosen is not None
    assert (chosen.decode.window, chosen.is_sparse, chosen.context_gemm) == (2048, True, None)
    assert indexer.kv_bytes_per_token(plan) == 128 + 4
    assert indexer.weight_bytes(plan) == indexer.weight_bytes(Plan())
    assert indexer.parameters() == 1536 * 8192 + 7168 * (128 + 64) + 2 * 128
    assert model.parameters() - load_model("deepseek-v3").parameters() == 61 * indexer.parameters()


def test_gpt_oss_alternates_windows_starting_with_one() -> None:
    """Even layers see 128 tokens, odd layers everything."""
    model = load_model("gpt-oss-20b")
    windows = [call.decode.window for block, _ in model.blocks for call in block.attention(Plan())]
    assert windows == [128, 0] * 12


def test_gemma_has_five_local_layers_to_one_global() -> None:
    """Every sixth layer sees everything, the others 1,024 tokens; each block ends in a norm of its own."""
    model = load_model("gemma-3-27b")
    assert [count for _, count in model.blocks] == [5, 1] * 10 + [2]
    ops = model.unique_blocks[0].token_ops(Plan(), 8)
    assert [op.op for op in ops if isinstance(op, Elementwise)] == [
        "add_rmsnorm",
        "qk_norm",
        "rope",
        "kv_write",
        "rmsnorm",
        "add_rmsnorm",
        "gelu_mul",
        "rmsnorm",
    ]


def test_a_norm_over_all_heads_is_summed_on_each_rank_and_reduced() -> None:
    """Alone a norm of queries and keys is one kernel; over ranks both are squared, summed and reduced before it."""
    attention = load_model("minimax-m2.5").unique_blocks[0].cells[0]
    alone, split = (attention.token_ops(parse_plan(plan), 8) for plan in ("tp1", "tp4"))
    assert not any(isinstance(op, Elementwise) and op.op == "square_sum" for op in alone)
    found = [(op.op, op.bytes_per_row) for op in split if isinstance(op, Elementwise) and op.op == "square_sum"]
    assert found == [("square_sum", 12 * 128 * 2 + 4), ("square_sum", 2 * 128 * 2 + 4)]
    kinds = [op.op if isinstance(op, Elementwise) else getattr(op, "kind", "") for op in split]
    assert kinds[kinds.index("square_sum") :][:4] == ["square_sum", "square_sum", "all_reduce", "qk_norm"]


def _transfers(plan: str, **choices: Any) -> list[tuple[str, int, int, int]]:
    cell = load_model("qwen3-235b-a22b").unique_blocks[0].cells[-1]
    ops = cell.token_ops(parse_plan(plan), 64, KernelChoices(**choices))
    return [
        (op.kind, int(np.asarray(op.message_bytes)), op.ranks, op.group_stride)
        for op in ops
        if isinstance(op, Collective)
    ]


def test_experts_meet_tokens_by_the_transfers_a_plan_implies() -> None:
    """Shared tokens need one all-reduce; attention-data ranks gather tokens and choices and scatter results."""
    hidden, rows = 4096 * 2, 64
    assert _transfers("tp8") == _transfers("tp8-ep8") == [("all_reduce", rows * hidden, 8, 1)]
    gathered = rows * 8 * (hidden + 8 * 8)
    assert _transfers("attn.dp8-moe.ep8") == [
        ("all_gather", gathered, 8, 1),
        ("reduce_scatter", rows * 8 * hidden, 8, 1),
    ]
    assert _transfers("attn.dp4-tp2") == [
        ("all_gather", rows * 4 * (hidden + 8 * 8), 4, 2),
        ("reduce_scatter", rows * 4 * hidden, 4, 2),
        ("all_reduce", rows * hidden, 2, 1),
    ]
    assert _transfers("attn.dp4-tp2-moe.ep8")[-1] == ("all_gather", rows * hidden, 2, 1)


def test_all_to_all_sends_each_token_to_the_ranks_of_its_experts() -> None:
    """The optional all-to-all moves less than gathering everything on many ranks, and never more copies than top-k."""
    out, back = _transfers("attn.dp32-moe.ep32", all2all="deepep")
    assert out[0] == back[0] == "all_to_all"
    row = 64 * 4096 * 2
    assert row < out[1] <= 8 * row
    assert out[1] < _transfers("attn.dp32-moe.ep32")[0][1]


def test_a_router_wider_than_the_model_casts_its_input_first() -> None:
    """MiniMax-M2 scores experts in fp32: one cast of 2 bytes in and 4 out per element, then an fp32 GEMM."""
    _, experts = load_model("minimax-m2.5").unique_blocks[0].cells
    ops = experts.token_ops(Plan(), 64)
    router = next(index for index, op in enumerate(ops) if isinstance(op, Gemm))
    cast = ops[router - 1]
    assert isinstance(cast, Elementwise)
    assert (cast.op, float(cast.io_bytes())) == ("cast", 64 * 3072 * 6)
    assert ops[router] == Gemm(m=64, n=256, k=3072, dtype="fp32")
    assert all(not isinstance(op, Elementwise) or op.op != "cast" for op in _block_ops("qwen3-30b-a3b"))


def _block_ops(name: str) -> list[Op]:
    return load_model(name).unique_blocks[0].token_ops(Plan(), 64)


def test_routed_tokens_are_those_of_the_whole_group() -> None:
    """Experts of an attention-data group see the tokens of all its ranks."""
    cell = load_model("qwen3-235b-a22b").unique_blocks[0].cells[-1]
    (experts,) = [op for op in cell.token_ops(parse_plan("attn.dp8-moe.ep8"), 64) if isinstance(op, Moe)]
    assert (experts.num_tokens, experts.ep, experts.local_experts) == (512, 8, 16)


@pytest.mark.parametrize(("choice", "kernels"), [("separate", 5), ("fused", 1), ("in_gemm", 0)])
def test_activation_rounding_is_separate_fused_or_free(choice: Any, kernels: int) -> None:
    """DeepSeek's dense layer rounds five times; fusing leaves those behind no norm or activation, pricing none."""
    block = load_model("deepseek-v3").unique_blocks[0]
    ops = block.token_ops(Plan(tp=8), 32, KernelChoices(activation_quantisation=choice))
    names = [op.op for op in ops if isinstance(op, Elementwise)]
    assert names.count("quantise") == (kernels if choice != "fused" else 2)
    assert ("add_rmsnorm_quantise" in names) == (choice == "fused")


def test_plan_formats_reach_every_matrix() -> None:
    """An fp8 plan quantises a 16-bit checkpoint's layers, not its router or head; a cast to fp16 reaches all."""
    model = load_model("qwen3-30b-a3b")
    block = model.unique_blocks[0]
    ops = block.token_ops(parse_plan("w.fp8"), 4)
    assert [op.dtype for op in ops if isinstance(op, Gemm | Moe)] == ["fp8", "fp8", "bf16", "fp8"]
    assert {op.dtype for op in model.head_ops(parse_plan("w.fp8"), 4) if isinstance(op, Gemm)} == {"bf16"}
    cast = block.token_ops(parse_plan("w.fp16"), 4) + model.head_ops(parse_plan("w.fp16"), 4)
    assert {op.dtype for op in cast if isinstance(op, Gemm | Moe | Elementwise)} == {"fp16"}


def test_head_runs_on_sampled_rows_over_the_padded_vocabulary() -> None:
    """The head multiplies sampled rows by a 64-padded share of the vocabulary and gathers all logits."""
    model = load_model("gpt-oss-20b")
    ops = model.head_ops(Plan(tp=8), 5)
    (gemm,) = [op for op in ops if isinstance(op, Gemm)]
    assert (gemm.m, gemm.n, gemm.k) == (5, 201088 // 8, 2880)
    (gather,) = [op for op in ops if isinstance(op, Collective)]
    assert (gather.kind, gather.message_bytes) == ("all_gather", 5 * 201088 * 2)


def test_stages_hand_over_hidden_state_and_residual() -> None:
    """Each tensor rank sends its share of 2 x hidden per token one stage on; the receivers gather it."""
    model = load_model("llama-3.1-70b")
    hop, gather = model.send_ops(parse_plan("pp2-tp4"), 16)
    assert isinstance(hop, Collective)
    assert isinstance(gather, Collective)
    assert (hop.kind, hop.message_bytes, hop.group_stride) == ("send_recv", 16 * 2 * 8192 * 2 // 4, 4)
    assert (gather.kind, gather.message_bytes) == ("all_gather", 16 * 2 * 8192 * 2)
    assert model.send_ops(parse_plan("tp4"), 16) == []


def test_a_tied_head_is_held_once_per_end_of_the_pipeline() -> None:
    """One stage holds a tied embedding once; two stages need it at both ends."""
    model = load_model("llama-3.2-1b")
    table = 2 * 128256 * 2048
    (whole,) = model.stage_weight_bytes(Plan())
    first, last = model.stage_weight_bytes(Plan(pp=2))
    assert first + last == whole + table
    assert abs(last - first) <= 2 * 2 * 2048


def test_embedding_and_final_norm_run_on_every_token() -> None:
    """The vocabulary-parallel embedding sums over the tensor axis; the final norm sees all tokens of the step."""
    model = load_model("llama-3.1-8b")
    lookup, reduce = model.embedding_ops(Plan(tp=2), 64)
    assert isinstance(lookup, Elementwise)
    assert isinstance(reduce, Collective)
    assert (lookup.rows, reduce.kind, reduce.message_bytes) == (64, "all_reduce", 64 * 4096 * 2)
    (norm,) = model.final_norm_ops(Plan(tp=2), 64)
    assert isinstance(norm, Elementwise)
    assert (norm.op, norm.rows) == ("add_rmsnorm", 64)


def test_every_bundled_cell_is_registered() -> None:
    """Each cell of each bundled model is known by the kind it is registered under."""
    kinds = {kind_of(cell) for name in bundled_models() for block, _ in load_model(name).blocks for cell in block.cells}
    assert kinds == {
        "attention",
        "cross_attention",
        "gated_delta",
        "indexer",
        "latent_attention",
        "mamba2",
        "mlp",
        "moe",
    }
    assert "encoder_attention" in CELL_KINDS
