"""Towers of published checkpoints: parameters to the last one, and the published arithmetic of vision transformers."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster_specs.errors import UserError
from costmodel.ops.op_types import Attention, Gemm
from simulator.model.bind_workload import bind_workload
from simulator.model.encoder import Encoder
from simulator.model.families.vision import vision_tower
from simulator.model.hf_config import HfConfig
from simulator.model.item_rules import FixedImage, PatchGrid
from simulator.model.load_model import from_hf_config, load_model
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.workload.parse import parse_workload

QWEN3_TEXT = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "hidden_act": "silu",
}

BART_SIDE = {"layers": 12, "attention_heads": 16, "ffn_dim": 4096}


def _tower(model: ModelSpec) -> Encoder:
    assert model.tower is not None
    return model.tower


def test_parameters_are_those_of_the_checkpoints() -> None:
    """Totals as the index files of the checkpoints sum up; towers as their reports say: 675 M, 400 M, 637 M."""
    qwen25 = load_model("qwen2.5-vl-7b")
    assert qwen25.with_tower().parameters() == 8_292_166_656
    qwen3 = from_hf_config(
        {
            "model_type": "qwen3_vl",
            "text_config": QWEN3_TEXT,
            "vision_config": {"deepstack_visual_indexes": [8, 16, 24]},
        },
        name="qwen3-vl-8b",
    )
    assert qwen3.with_tower().parameters() == 8_767_123_696
    mistral = load_model("mistral-small-3.2-24b")
    assert mistral.with_tower().parameters() == 24_011_361_280
    assert _tower(mistral).parameters() == pytest.approx(400e6, rel=0.1)
    whisper = load_model("whisper-large-v3")
    assert whisper.parameters() == 1_543_490_560
    assert whisper.encoder is not None
    assert round(whisper.encoder.parameters() / 1e6) == 637


def test_bart_has_the_parameters_of_its_checkpoint() -> None:
    """406,291,456 for bart-large, the embedding both sides share counted once; its encoder reads the prompt."""
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in BART_SIDE.items()}
    config = {"model_type": "bart", "d_model": 1024, "vocab_size": 50265, "activation_function": "gelu", **sides}
    model = from_hf_config(config | {"max_position_embeddings": 1024}, name="bart-large")
    assert model.parameters() == 406_291_456
    served, bound = bind_workload(model, parse_workload("synthetic:isl=700,osl=60,n=3"))
    assert served.is_encoder_decoder
    assert bound.items is not None
    assert bound.items.tokens.tolist() == [700, 700, 700]


def test_qwen2_vl_has_the_encoder_its_report_counts() -> None:
    """675 M parameters, full attention in every layer."""
    values = json.loads(_config("qwen2.5-vl-7b").read_text())
    tower = _tower(from_hf_config(values | {"model_type": "qwen2_vl", "vision_config": {}}, name="qwen2-vl-7b"))
    assert round(tower.parameters() / 1e6) == 676
    assert sum(count for _, count in tower.attention_ops(Plan(), 100)) == 32


# torchvision's table of weights: image, patch, width, layers, heads, parameters, and multiply-adds in 10^9.
VITS = (
    (224, 16, 768, 12, 12, 86_567_656, 17.56),
    (224, 16, 1024, 24, 16, 304_326_632, 61.55),
    (224, 14, 1280, 32, 16, 632_045_800, 167.29),
    (518, 14, 1280, 32, 16, 633_470_440, 1016.72),
)


@pytest.mark.parametrize("published", VITS)
def test_a_vision_transformer_costs_what_is_published(published: tuple[int, int, int, int, int, int, float]) -> None:
    """Parameters are equal, FLOPs within 0.5 % of twice the published multiply-adds, for one image."""
    image, patch, width, layers, heads, parameters, gmac = published
    config = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": image,
        "patch_size": patch,
        "hidden_act": "gelu",
    }
    patches = (image // patch) ** 2
    tower = vision_tower(
        HfConfig(config, "vit"),
        "bf16",
        outputs=patches,
        rule=FixedImage(tokens=patches + 1, embeds=patches),
        projector=(),
        class_token=True,
        patch_bias=True,
    )
    head, first_norm = 1000 * (width + 1), 2 * width
    assert tower.parameters() - first_norm + head == parameters
    flop = sum(float(op.flop()) for op in tower.item_ops(Plan()) if isinstance(op, Gemm | Attention))
    assert flop == pytest.approx(2e9 * gmac, rel=5e-3)


def test_windows_bound_the_attention_of_a_large_image() -> None:
    """Of Qwen2.5-VL's 32 layers four see the whole image; the others cost in proportion to its tokens."""
    tower = _tower(load_model("qwen2.5-vl-7b"))
    assert [count for _, count in tower.attention_ops(Plan(), 4096**2)] == [4]
    windows = [
        (op, count) for op, count in tower.token_ops(Plan(), np.array([4096, 8192])) if isinstance(op, Attention)
    ]
    assert [count for _, count in windows] == [28]
    small, large = windows[0][0].flop()
    assert large == 2 * small == pytest.approx(2 * 4.0 * 64 * 4096 * 1280, rel=1e-2)


def test_items_together_cost_what_they_cost_apart_in_flops() -> None:
    """Matrices on the sum of tokens and attention on the sum of pairs: no FLOP more or less than item by item."""
    tower = _tower(load_model("mistral-small-3.2-24b"))
    tokens = np.array([400, 1600])
    apart = sum(float(op.flop()) * count for n in tokens for op, count in tower.token_ops(Plan(), int(n)))
    together = sum(float(op.flop()) * count for op, count in tower.token_ops(Plan(), int(tokens.sum())))
    assert together == pytest.approx(apart)
    pairs = int((tokens**2).sum())
    by_pairs = sum(float(op.flop()) * count for op, count in tower.attention_ops(Plan(), pairs))
    assert by_pairs == pytest.approx(4.0 * pairs * 1024 * 24, rel=2e-3)


def test_bounds_on_pixels_are_those_beside_the_config(tmp_path: Path) -> None:
    """``preprocessor_config.json`` beside a config replaces the published bounds; bounds that cross are refused."""
    (tmp_path / "config.json").write_text(_config("qwen2.5-vl-7b").read_text())
    beside = tmp_path / "preprocessor_config.json"
    beside.write_text(json.dumps({"min_pixels": 3136, "max_pixels": 1_003_520}))
    rule = _tower(from_hf_config(tmp_path)).rule
    assert isinstance(rule, PatchGrid)
    assert rule.largest.prompt == 1280
    beside.write_text(json.dumps({"size": {"shortest_edge": 65_536, "longest_edge": 3136}}))
    with pytest.raises(UserError, match="max_pixels"):
        from_hf_config(tmp_path)


def test_a_tower_is_left_out_until_it_is_asked_for() -> None:
    """Text requests leave a tower out of weights and parameters; with it both grow by exactly what it has."""
    text = load_model("qwen2.5-vl-7b")
    assert text.left_out == ("vision tower",)
    loaded = text.with_tower()
    assert loaded.left_out == ()
    assert loaded.parameters() - text.parameters() == _tower(text).parameters()
    for plan in (Plan(), Plan(tp=2)):
        more = sum(loaded.stage_weight_bytes(plan)) - sum(text.stage_weight_bytes(plan))
        assert more == _tower(text).weight_bytes(plan)


def _config(name: str) -> Path:
    return Path(__file__).parents[2] / "simulator" / "model" / "configs" / f"{name}.json"
