"""Compiled tables say what the ops say: sums, padding, monotony, stages and intervals."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.load import load_cluster
from costmodel.ops.op_types import Gemm
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.model.cell import KernelChoices
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.steps.compile_plan import compile_plan
from simulator.steps.compiled_plan import CompiledPlan
from simulator.steps.op_curves import OpCurves, label
from simulator.steps.step_ends import at_end
from simulator.steps.step_knots import StepShape
from simulator.steps.step_sum import StepSum

_SHAPE = StepShape(max_num_seqs=256, max_num_batched_tokens=2048, max_model_len=8192, kv_tokens=200_000)
_CLUSTER = load_cluster("h100-sxm-8")


def _compile(
    model: str, plan: str, profile: str | EngineProfile = "vllm-0.33", curves: OpCurves | None = None
) -> CompiledPlan:
    return compile_plan(
        load_model(model),
        parse_plan(plan),
        curves or OpCurves(AnalyticCosts(_CLUSTER)),
        profile=load_profile(profile) if isinstance(profile, str) else profile,
        shape=_SHAPE,
        kernels=KernelChoices(activation_quantisation="fused"),
    )


def test_stages_alike_are_compiled_once_and_cost_the_same() -> None:
    """Equal stages between the first and the last are one object, and their rows those of a stage of their own."""
    compiled = _compile("llama-3.1-70b", "pp8")
    first, *between, last = compiled.stages
    assert len({id(stage) for stage in between}) == 1
    apart = replace(compiled, stages=(first, *(replace(stage) for stage in between), last))
    assert len({id(stage) for stage in apart.stages}) == 8
    for name in ("token_mixed_ps", "token_decode_ps", "sample_ps", "send_ps", "decode_ps", "prefill_pair_ps"):
        np.testing.assert_array_equal(getattr(compiled.tables("high"), name), getattr(apart.tables("high"), name))


def test_token_table_is_the_sum_of_its_ops() -> None:
    """At a captured size the table holds exactly the ops of all layers, the embedding and the final norm."""
    model, plan, curves = load_model("llama-3.1-8b"), parse_plan("tp2"), OpCurves(AnalyticCosts(_CLUSTER))
    kernels = KernelChoices(activation_quantisation="fused")
    tables = _compile("llama-3.1-8b", "tp2").tables()
    for tokens in (1, 64, 512):
        ops = [
            op for block, count in model.blocks for _ in range(count) for op in block.token_ops(plan, tokens, kernels)
        ]
        ops += [*model.embedding_ops(plan, tokens), *model.final_norm_ops(plan, tokens, kernels)]
        expected = sum(float(curves.price(op).latency_s) for op in ops)
        assert tables.token_decode_ps[0, tokens] == pytest.approx(expected * 1e12, rel=1e-9)


def test_steps_are_padded_to_the_captured_sizes() -> None:
    """A step of 9 tokens costs what 16 cost, up to the largest graph; above it nothing is padded."""
    compiled = _compile("llama-3.1-8b", "tp1")
    padded, table = compiled.padded_tokens, compiled.tables().token_decode_ps[0]
    assert [int(padded[tokens]) for tokens in (0, 1, 3, 9, 250, 512, 513)] == [0, 1, 4, 16, 256, 512, 513]
    assert table[9] == table[16] < table[17]
    assert table[0] == 0


def test_more_work_never_takes_less_time() -> None:
    """Every table grows with tokens, rows, keys and pairs."""
    for plan in ("tp1", "tp8", "pp2-tp4"):
        tables = _compile("llama-3.1-70b", plan).tables()
        for table in (tables.token_mixed_ps, tables.sample_ps, tables.decode_ps, tables.prefill_pair_ps):
            assert (np.diff(table, axis=-1) >= 0).all()
        assert (np.diff(tables.decode_ps, axis=1) >= 0).all()


def test_stages_share_the_layers() -> None:
    """Two stages together run the layers of one, and only the last samples, only the first hands over."""
    whole, split = _compile("llama-3.1-70b", "tp4").tables(), _compile("llama-3.1-70b", "pp2-tp4").tables()
    assert split.decode_ps.sum(axis=0) == pytest.approx(whole.decode_ps[0], rel=1e-6)
    assert split.token_mixed_ps[:, 512].sum() == pytest.approx(whole.token_mixed_ps[0, 512], rel=1e-6)
    assert split.sample_ps[0].max() == 0 < split.sample_ps[1].max()
    assert split.send_ps[0, 1] > 0 == split.send_ps[1].max()
    assert whole.send_ps.max() == 0


def test_sliding_window_layers_have_their_own_table() -> None:
    """gpt-oss: half the layers see a window, whose cost stops growing once every sequence has filled it."""
    tables = _compile("gpt-oss-20b", "tp1").tables()
    assert tables.window_tokens == 128
    assert tables.windowed_ps.max() > 0 < tables.decode_ps.max()
    single = tables.windowed_ps[0, 0]
    assert single[-1] == single[np.searchsorted(tables.decode_kv_knots, 256)]
    assert _compile("llama-3.1-8b", "tp1").tables().windowed_ps.max() == 0


def test_piecewise_graphs_add_host_time_per_all_reduce() -> None:
    """A gap that a profile states is added once per all-reduce, in the steps that run in pieces, and nowhere else."""
    profile = load_profile("vllm-0.10")
    gapped = profile.model_copy(update={"host": profile.host.model_copy(update={"all_reduce_s": 9e-6})})
    pieces = _compile("llama-3.1-70b", "tp8", "vllm-0.10")
    without, with_gap = (compiled.tables().token_decode_ps for compiled in (pieces, replace(pieces, profile=gapped)))
    added = with_gap[0, 1:513] - without[0, 1:513]
    assert added == pytest.approx(2 * 80 * 9e-6 * 1e12, abs=1e3)
    whole = load_profile("vllm-0.11")
    whole = whole.model_copy(update={"host": gapped.host})
    full = _compile("llama-3.1-70b", "tp8", "vllm-0.11")
    assert (replace(full, profile=whole).tables().token_decode_ps == full.tables().token_decode_ps).all()


def test_a_step_without_graph_lasts_as_long_as_its_launches() -> None:
    """Above the largest graph a step of few tokens takes launches x launch time; captured and long steps do not."""
    compiled = _compile("llama-3.1-8b", "tp8")
    table, free = (
        compiled.tables().token_mixed_ps[0],
        _compile("llama-3.1-8b", "tp8", "orca").tables().token_mixed_ps[0],
    )
    floor_ps = 32 * 12 * load_profile("vllm-0.33").host.launch_s * 1e12
    assert table[512] < floor_ps
    assert table[513] == pytest.approx(floor_ps)
    assert table[2048] == pytest.approx(max(free[2048], floor_ps))
    # Fused experts are five calls and routing two, where a dense MLP is three.
    assert _compile("mixtral-8x7b", "tp8").stages[0].launches == compiled.stages[0].launches + 32 * (5 + 2 - 3)


def test_interval_brackets_the_estimate() -> None:
    """Low, middle and high tables are ordered everywhere."""
    compiled = _compile("mixtral-8x7b", "tp2")
    low, middle, high = (compiled.tables(end) for end in ("low", "middle", "high"))
    for name in ("token_mixed_ps", "decode_ps", "prefill_pair_ps"):
        assert (getattr(low, name) <= getattr(middle, name)).all()
        assert (getattr(middle, name) <= getattr(high, name)).all()


def test_curves_are_priced_once_for_all_plans() -> None:
    """A second plan with the same tensor width asks the cost model only for what differs."""
    curves = OpCurves(AnalyticCosts(_CLUSTER))
    _compile("llama-3.1-70b", "tp4", curves=curves)
    first = len(curves)
    _compile("llama-3.1-70b", "dp2-tp4", curves=curves)
    assert len(curves) == first
    _compile("llama-3.1-70b", "pp2-tp4", curves=curves)
    assert len(curves) <= first + 2


def test_errors_add_within_an_op_and_in_quadrature_across_ops() -> None:
    """Two layers of one op double its half-width; two different ops of equal width give sqrt(2) of it."""
    curves = OpCurves(AnalyticCosts(_CLUSTER))
    one, two = (curves.price(Gemm(m=np.array([4096]), n=size, k=4096)) for size in (4096, 4096))
    layers, kinds = StepSum(1), StepSum(1)
    layers.add("gemm", one, 2.0)
    kinds.add("gemm", one)
    kinds.add("head", two)
    width = one.high_s - one.latency_s
    assert at_end("high", layers) - layers.latency_s == pytest.approx(2 * width)
    assert at_end("high", kinds) - kinds.latency_s == pytest.approx(np.sqrt(2) * width)


def test_labels_name_what_ran() -> None:
    """A breakdown line carries the small op's or the collective's own name."""
    ops = load_model("mixtral-8x7b").unique_blocks[0].token_ops(parse_plan("tp2"), 8)
    assert {"gemm", "moe", "all_reduce", "rope", "add_rmsnorm"} <= {label(op) for op in ops}


def test_latent_attention_expands_what_is_cached() -> None:
    """MLA: C cached tokens of a chunk cost the expansion GEMM of C rows in every layer; other models expand nothing."""
    model, plan, curves = load_model("deepseek-v3"), parse_plan("tp8"), OpCurves(AnalyticCosts(_CLUSTER))
    tables = _compile("deepseek-v3", "tp8", curves=curves).tables()
    gemms = [
        call.context_gemm
        for block, count in model.blocks
        for _ in range(count)
        for call in block.attention(plan)
        if call.context_gemm is not None
    ]
    for knot, cached in enumerate(tables.context_knots):
        expected = sum(float(curves.price(replace(gemm, m=max(1, int(cached)))).latency_s) for gemm in gemms)
        assert tables.context_ps[0, knot] == pytest.approx(0 if cached == 0 else expected * 1e12, abs=0.5, rel=1e-9)
    assert not _compile("llama-3.1-8b", "tp1").tables().context_ps.any()


def test_one_sequence_at_a_time_is_a_table_too() -> None:
    """With max_num_seqs = 1 the decode table still has the two batch knots that the engine interpolates between."""
    compiled = compile_plan(
        load_model("llama-3.1-8b"),
        parse_plan("tp1"),
        OpCurves(AnalyticCosts(_CLUSTER)),
        profile=load_profile("vllm-0.33"),
        shape=StepShape(max_num_seqs=1, max_num_batched_tokens=2048, max_model_len=8192, kv_tokens=20_000),
        kernels=KernelChoices(activation_quantisation="fused"),
    )
    assert compiled.tables().decode_batch_knots.tolist() == [1, 2]


def test_shared_experts_hide_behind_the_routed_ones() -> None:
    """Up to the engine's limit a step takes as long as without its shared experts, but still spends their energy."""
    plan, kernels = parse_plan("tp8"), KernelChoices(activation_quantisation="fused")
    own = load_profile("vllm-0.33")
    one_by_one = own.model_copy(update={"shared_expert_tokens": 0})
    beside, after = (_compile("deepseek-v3", "tp8", profile).stages[0].tokens for profile in (own, one_by_one))
    tokens = _compile("deepseek-v3", "tp8").knots.tokens
    curves, model = OpCurves(AnalyticCosts(_CLUSTER)), load_model("deepseek-v3")
    shared = np.zeros(len(tokens))
    for block, count in model.blocks:
        for cell in block.cells:
            if isinstance(cell, MixtureOfExperts):
                shared += count * sum(curves.price(op).latency_s for op in cell.shared_ops(plan, tokens, kernels))
    assert after.latency_s - beside.latency_s == pytest.approx(np.where(tokens <= 256, shared, 0.0), abs=1e-12)
    assert shared.min() > 0
    assert (after.flop == beside.flop).all()


def test_drafts_are_priced_as_queries_and_rows_of_their_sequence() -> None:
    """With three drafts decode attention has four queries, and the sampler four rows per sequence."""
    model, plan, curves = load_model("llama-3.1-8b"), parse_plan("tp1"), OpCurves(AnalyticCosts(_CLUSTER))
    compiled = compile_plan(
        model,
        plan,
        curves,
        profile=load_profile("vllm-0.33"),
        shape=replace(_SHAPE, queries=4),
        kernels=KernelChoices(activation_quantisation="fused"),
    )
    tables, plain = compiled.tables(), _compile("llama-3.1-8b", "tp1", curves=curves).tables()
    (call,) = model.blocks[0][0].attention(plan)
    b, k = 2, len(tables.decode_kv_knots) - 1
    batch, kv = int(tables.decode_batch_knots[b]), int(tables.decode_kv_knots[k])
    op = replace(call.decode, num_decode=batch, decode_q=4, decode_kv=kv // batch, decode_kv_max=kv // batch)
    layers = sum(count for _, count in model.blocks)
    assert tables.decode_ps[0, b, k] == pytest.approx(layers * float(curves.price(op).latency_s) * 1e12, rel=1e-9)
    assert tables.sample_ps.shape[1] == 4 * 256 + 1
    assert plain.sample_ps[0, 256] < tables.sample_ps[0, 4 * 256] < 4 * plain.sample_ps[0, 256]


def test_host_time_is_serial_or_beside_the_device() -> None:
    """What is serial is part of every step that samples; what overlaps is the floor the engine holds steps to."""
    compiled = _compile("llama-3.1-8b", "tp1")
    host = compiled.profile.host.model_copy(
        update={"step_s": 1e-3, "sequence_s": 2e-6, "serial_step_s": 3e-4, "serial_sequence_s": 4e-6}
    )
    none = host.model_copy(update={"serial_step_s": 0.0, "serial_sequence_s": 0.0})
    alone, tables = (
        replace(compiled, profile=compiled.profile.model_copy(update={"host": times})).tables()
        for times in (none, host)
    )
    serial_us = (tables.sample_ps - alone.sample_ps)[0, [0, 1, 100]] / 1e6
    assert serial_us == pytest.approx([0.0, 304.0, 700.0], abs=1e-3)
    assert (tables.host_step_ps, tables.host_seq_ps) == (10**9, 2 * 10**6)


def test_chunks_save_a_kernels_start_where_one_call_attends_for_all() -> None:
    """FlashAttention's one call saves what attention takes over nothing; latent attention and other versions do not."""
    tables = _compile("llama-3.1-8b", "tp1", "vllm-0.15").tables()
    assert tables.attention_start_ps[0] == min(tables.prefill_pair_ps[0, 0], tables.prefill_kv_ps[0, 0]) > 0
    for model, plan, profile in (("llama-3.1-8b", "tp1", "vllm-0.6"), ("deepseek-v3", "tp8", "vllm-0.15")):
        assert _compile(model, plan, profile).tables().attention_start_ps.tolist() == [0]
