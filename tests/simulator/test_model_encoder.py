"""Encoders and vision towers: run once per item, attended to at a fixed length."""

import pytest

from costmodel.ops.op_types import Attention, Gemm
from simulator.model.cells.cross_attention import CrossAttention
from simulator.model.encoder import Encoder
from simulator.model.load_model import from_hf_config
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan


@pytest.fixture(name="whisper")
def _whisper() -> ModelSpec:
    sides: dict[str, object] = {}
    for side in ("encoder", "decoder"):
        sides |= {f"{side}_layers": 6, f"{side}_attention_heads": 8, f"{side}_ffn_dim": 2048}
    lengths = {"max_source_positions": 1500, "max_target_positions": 448}
    rest = {"vocab_size": 51865, "num_mel_bins": 80, "activation_function": "gelu"}
    return from_hf_config({"model_type": "whisper", "d_model": 512, **sides, **lengths, **rest}, name="whisper-base")


def _tower(model: ModelSpec) -> Encoder:
    assert model.encoder is not None
    return model.encoder


def test_every_token_of_an_item_sees_every_other(whisper: ModelSpec) -> None:
    """Encoder attention costs n^2 pairs per layer and head: 4 n^2 d FLOP."""
    calls = [op for op in _tower(whisper).item_ops(Plan(), 1499) if isinstance(op, Attention)]
    assert len(calls) == 6
    assert float(calls[0].flop()) == 4.0 * 1499**2 * 512


def test_an_item_costs_two_flop_per_parameter_and_token(whisper: ModelSpec) -> None:
    """The encoder's matrices are met once by each of its 1,500 tokens; positions and norms cost nothing."""
    tower = _tower(whisper)
    spent = sum(float(op.flop()) for op in tower.item_ops(Plan()) if isinstance(op, Gemm))
    matrices = tower.parameters() - tower.other_parameters
    assert spent == pytest.approx(2.0 * 1500 * matrices, rel=2e-3)


def test_cross_attention_keeps_a_fixed_length(whisper: ModelSpec) -> None:
    """Its keys are the encoder's 1,500 tokens: nothing grows per token, all of it is held per request."""
    cell = whisper.unique_blocks[0].cells[1]
    assert isinstance(cell, CrossAttention)
    assert cell.attention(Plan()).fixed_kv_tokens == 1500
    assert cell.kv_bytes_per_token(Plan()) == 0
    assert cell.kv_bytes_per_request(Plan(tp=2)) == 1500 * 2 * 256 * 2
    assert whisper.kv_bytes_per_token() == 6 * 2 * 512 * 2


def test_cross_attention_splits_its_projections_by_side(whisper: ModelSpec) -> None:
    """Queries and outputs run on decoder tokens, keys and values on encoder tokens; together all parameters."""
    cell = whisper.unique_blocks[0].cells[1]
    assert isinstance(cell, CrossAttention)
    per_step = [(op.n, op.k) for op in cell.token_ops(Plan(), 1) if isinstance(op, Gemm)]
    per_item = [(op.n, op.k) for op in cell.item_ops(Plan(), 1500) if isinstance(op, Gemm)]
    assert per_step == [(512, 512), (512, 512)]
    assert per_item == [(1024, 512)]


def test_a_tower_is_sharded_with_its_decoder(whisper: ModelSpec) -> None:
    """The first stage holds the tower, cut over the tensor axis; degrees its heads do not divide are refused."""
    assert sum(whisper.stage_weight_bytes(Plan())) == pytest.approx(2 * whisper.parameters(), rel=1e-3)
    tower = _tower(whisper)
    assert tower.weight_bytes(Plan(tp=2)) < tower.weight_bytes(Plan())
    assert whisper.refusal(Plan(tp=16)) == "tp is 16, must divide the 8 attention heads"
