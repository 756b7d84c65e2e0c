"""Families that a table of differences describes: parameters against published totals, layers against their rules."""

from typing import Any

import pytest

from cluster_specs.errors import UserError
from costmodel.ops import Collective
from simulator.model.architectures import from_hf_config
from simulator.plan import Plan

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _config(kind: str, *sizes: int, **more: object) -> dict[str, Any]:
    """Hidden and inner width, layers, heads, key/value heads, vocabulary, then the family's own keys."""
    named = dict(zip((*_SIZES, "vocab_size"), sizes, strict=True))
    return {"model_type": kind, "max_position_embeddings": 16384, "hidden_act": "silu", **named, **more}


# Totals of the checkpoints' safetensors headers.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "SmolLM3-3B": (_config("smollm3", 2048, 11008, 36, 16, 4, 128256), 3_075_098_624),
    "OLMo-2-7B": (_config("olmo2", 4096, 11008, 32, 32, 32, 100352), 7_298_617_344),
    "OLMo-2-13B": (_config("olmo2", 5120, 13824, 40, 40, 40, 100352), 13_716_198_400),
    "OLMo-2-32B": (_config("olmo2", 5120, 27648, 64, 40, 8, 100352), 32_234_279_936),
    "OLMo-3-7B": (_config("olmo3", 4096, 11008, 32, 32, 32, 100278, sliding_window=4096), 7_298_011_136),
    "Seed-OSS-36B": (_config("seed_oss", 5120, 27648, 64, 80, 8, 155136, head_dim=128), 36_151_104_512),
    "EXAONE-4.0-1.2B": (
        _config("exaone4", 2048, 4096, 30, 32, 8, 102400, tie_word_embeddings=True),
        1_279_391_488,
    ),
    "EXAONE-4.0-32B": (
        _config("exaone4", 5120, 27392, 64, 40, 8, 102400, sliding_window=4096, sliding_window_pattern="LLLG"),
        32_003_216_384,
    ),
    "Apertus-8B": (_config("apertus", 4096, 21504, 32, 32, 8, 131072, hidden_act="xielu"), 8_053_338_176),
    "GLM-4-9B-0414": (_config("glm4", 4096, 13696, 40, 32, 2, 151552, head_dim=128), 9_400_279_040),
    "GLM-4-32B-0414": (
        _config("glm4", 6144, 23040, 61, 48, 2, 151552, head_dim=128, attention_bias=False),
        32_566_081_536,
    ),
    "gemma-7b": (_config("gemma", 3072, 24576, 28, 16, 16, 256000, head_dim=256), 8_537_680_896),
    "gemma-2b": (_config("gemma", 2048, 16384, 18, 8, 1, 256000, head_dim=256), 2_506_172_416),
    "starcoder2-3b": (_config("starcoder2", 3072, 12288, 30, 24, 2, 49152, hidden_act="gelu"), 3_030_371_328),
    "starcoder2-7b": (_config("starcoder2", 4608, 18432, 32, 36, 4, 49152, hidden_act="gelu"), 7_173_923_840),
    "starcoder2-15b": (
        _config("starcoder2", 6144, 24576, 40, 48, 4, 49152, hidden_act="gelu", tie_word_embeddings=False),
        15_957_889_024,
    ),
    "phi-1.5": (_config("phi", 2048, 8192, 24, 32, 32, 51200, hidden_act="gelu"), 1_418_270_720),
    "phi-2": (_config("phi", 2560, 10240, 32, 32, 32, 51200, hidden_act="gelu"), 2_779_683_840),
    "stablelm-2-1.6b": (_config("stablelm", 2048, 5632, 24, 32, 32, 100352, use_qkv_bias=True), 1_644_515_328),
    "stablelm-3b-4e1t": (_config("stablelm", 2560, 6912, 32, 32, 32, 50304), 2_795_443_200),
    "internlm3-8b": (_config("internlm3", 4096, 10240, 48, 32, 2, 128512, head_dim=128), 8_804_241_408),
    "ERNIE-4.5-0.3B": (_config("ernie4_5", 1024, 3072, 18, 16, 2, 103424, head_dim=128), 360_748_032),
    "MiniCPM-2B": (_config("minicpm", 2304, 5760, 40, 36, 36, 122753), 2_724_880_896),
    "AFM-4.5B": (
        _config("arcee", 2560, 18432, 36, 20, 4, 128000, head_dim=128, hidden_act="relu2"),
        4_619_164_160,
    ),
}


@pytest.mark.parametrize(("name", "case"), PUBLISHED.items())
def test_a_family_counts_exactly(name: str, case: tuple[dict[str, Any], int]) -> None:
    """A config's parameter count is the one its checkpoint states, to the last parameter."""
    config, total = case
    assert from_hf_config(config, name=name).parameters() == total


def _layers(config: dict[str, Any]) -> list[Any]:
    model = from_hf_config(config, name="toy")
    return [model.unique_blocks[index].cells[0] for index in model.layers]


def _toy(kind: str, **more: object) -> dict[str, Any]:
    return _config(kind, 512, 1024, 8, 8, 2, 1000, **more)


def test_positions_and_windows_follow_each_family_s_rule() -> None:
    """SmolLM3 rotates all but every fourth layer, EXAONE 4 only its sliding ones, OLMo 3 all."""
    assert [layer.has_rope for layer in _layers(_toy("smollm3"))] == [True, True, True, False] * 2
    listed = [1, 0] * 4
    assert [layer.has_rope for layer in _layers(_toy("smollm3", no_rope_layers=listed))] == [True, False] * 4
    local = _layers(_toy("exaone4", sliding_window=64, sliding_window_pattern="LG"))
    assert [(layer.window, layer.has_rope) for layer in local] == [(64, True), (0, False)] * 4
    assert all(layer.has_rope for layer in _layers(_toy("exaone4")))
    assert [layer.window for layer in _layers(_toy("olmo3", sliding_window=64))] == [64, 64, 64, 0] * 2
    assert all(layer.has_rope for layer in _layers(_toy("olmo3", sliding_window=64)))


def test_attention_and_feed_forward_side_by_side_share_norm_and_reduction() -> None:
    """Phi always, StableLM where it says so: one norm and one all-reduce fewer per layer."""
    apart, beside = (from_hf_config(_toy("stablelm", use_parallel_residual=flag), name="x") for flag in (False, True))
    assert apart.parameters() - beside.parameters() == 8 * 2 * 512
    reductions = [
        sum(isinstance(op, Collective) for op in model.unique_blocks[0].token_ops(Plan(tp=2), 4))
        for model in (apart, beside)
    ]
    assert reductions == [2, 1]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (_toy("phi", hidden_act="gelu", qk_layernorm=True), "'qk_layernorm' is True, must be absent or false"),
        (_toy("hunyuan_v1_dense", use_cla=True), "'use_cla' is True, must be absent or false"),
        (_toy("cwm", sliding_window=64), "'layer_types' is missing, must be a list"),
        (_toy("smollm3", no_rope_layers=[1]), "a list of num_hidden_layers = 8 flags"),
        (_toy("exaone4", sliding_window=64, sliding_window_pattern="LLX"), "an integer, or letters L and G"),
        (_toy("minicpm", num_experts=8), "this architecture is dense"),
    ],
)
def test_what_changes_the_computation_and_is_not_modelled_is_refused(config: dict[str, Any], said: str) -> None:
    """No structural key is passed over."""
    with pytest.raises(UserError, match=said):
        from_hf_config(config, name="toy")
