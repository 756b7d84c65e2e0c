"""Families that a table of differences describes: parameters against published totals, layers against their rules."""

from typing import Any

import pytest

from cluster_specs.errors import UserError
from costmodel.ops.op_types import Collective, Gemm
from simulator.model.load_model import from_hf_config
from simulator.plan.plan import Plan

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
    "Ling-mini-2.0": (
        _config("bailing_moe", 2048, 5120, 20, 16, 4, 157184, head_dim=128, num_experts=256, num_experts_per_tok=8)
        | {"moe_intermediate_size": 512, "first_k_dense_replace": 1, "num_shared_experts": 1, "use_qk_norm": True}
        | {"moe_router_enable_expert_bias": True},
        16_255_643_392,
    ),
    "Ling-lite-1.5": (
        _config("bailing_moe", 2048, 5632, 28, 16, 4, 126464, head_dim=128, num_experts=64, num_experts_per_tok=6)
        | {"moe_intermediate_size": 1408, "num_shared_experts": 2},
        16_801_974_272,
    ),
    "deepseek-moe-16b": (
        _config("deepseek", 2048, 10944, 28, 16, 16, 102400, n_routed_experts=64, num_experts_per_tok=6)
        | {"moe_intermediate_size": 1408, "n_shared_experts": 2, "first_k_dense_replace": 1},
        16_375_728_128,
    ),
    "dots.llm1": (
        _config("dots1", 4096, 10944, 62, 32, 32, 152064, n_routed_experts=128, num_experts_per_tok=6)
        | {"moe_intermediate_size": 1408, "n_shared_experts": 2, "first_k_dense_replace": 1},
        142_774_381_696,
    ),
    "ERNIE-4.5-21B-A3B": (
        _config("ernie4_5_moe", 2560, 12288, 28, 20, 4, 103424, moe_num_experts=64, moe_k=6)
        | {"moe_intermediate_size": 1536, "moe_num_shared_experts": 2, "moe_layer_start_index": 1},
        21_825_437_888,
    ),
    "OLMoE-1B-7B": (
        _config("olmoe", 2048, 1024, 16, 16, 16, 50304, num_experts=64, num_experts_per_tok=8),
        6_919_161_856,
    ),
    "granite-3.1-3b-a800m": (
        _config("granitemoe", 1536, 512, 32, 24, 8, 49155, num_local_experts=40, num_experts_per_tok=8)
        | {"tie_word_embeddings": True},
        3_298_793_472,
    ),
    "Phi-3.5-MoE": (
        _config("phimoe", 4096, 6400, 32, 32, 8, 32064, num_local_experts=16, num_experts_per_tok=2)
        | {"attention_bias": True, "lm_head_bias": True},
        41_873_153_344,
    ),
    "Hunyuan-A13B": (
        _config("hunyuan_v1_moe", 4096, 3072, 32, 32, 8, 128167, head_dim=128, num_experts=64, moe_topk=[8] * 32)
        | {"moe_intermediate_size": [3072] * 32, "num_shared_expert": [1] * 32, "tie_word_embeddings": True},
        80_393_183_232,
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


# Totals below are those of the classes of transformers 5.24, with sizes of our own.
_GEMMA4 = _config("gemma4_text", 256, 512, 6, 8, 4, 1000, head_dim=32, global_head_dim=64, sliding_window=64) | {
    "hidden_size_per_layer_input": 0
}
_STEP = {
    "model_type": "step3p5",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_attention_groups": 2,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "max_seq_len": 4096,
    "vocab_size": 1000,
    "moe_intermediate_size": 64,
    "moe_num_experts": 8,
    "moe_top_k": 2,
    "share_expert_dim": 96,
    "sliding_window": 64,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
}


@pytest.mark.parametrize(
    ("more", "total"),
    [
        ({}, 3_998_400),
        ({"attention_k_eq_v": True, "num_global_key_value_heads": 2}, 3_900_096),
        ({"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 48}, 5_786_352),
        (
            {
                "hidden_size_per_layer_input": 16,
                "vocab_size_per_layer_input": 300,
                "num_kv_shared_layers": 2,
                "use_double_wide_mlp": True,
                "layer_types": ["sliding_attention", "full_attention"] * 3,
            },
            5_085_552,
        ),
    ],
)
def test_gemma_4_counts_exactly(more: dict[str, Any], total: int) -> None:
    """Keys that are values, experts beside the dense feed-forward, per-layer inputs, shared KV caches."""
    model = from_hf_config(_GEMMA4 | more, name="toy")
    assert model.parameters() == total
    assert len(model.stage_weight_bytes(Plan(tp=2, pp=2))) == 2


def test_layers_that_share_a_cache_keep_nothing() -> None:
    """The last layers of a Gemma 4 E model project queries alone and read an earlier layer's cache."""
    more = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 3}
    model = from_hf_config(_GEMMA4 | more, name="toy")
    kept = [model.unique_blocks[index].kv_bytes_per_token(Plan()) for index in model.layers]
    assert kept == [2 * 4 * 32 * 2, 2 * 4 * 64 * 2] * 2 + [0, 0]


def test_step_has_more_heads_in_its_sliding_layers() -> None:
    """Heads of sliding layers stand in a section of their own; layer types of further predictions are cut off."""
    other = {"attention_type": "sliding_attention", "num_attention_heads": 12, "head_dim": 32}
    layers = _layers(_STEP | {"attention_other_setting": other})
    assert [(layer.num_heads, layer.window) for layer in layers] == [(8, 0), (12, 64), (12, 64), (12, 64)]
    sparse = from_hf_config(_STEP | {"moe_layers_enum": "2,3"}, name="toy")
    kinds = [type(sparse.unique_blocks[index].cells[1]).__name__ for index in sparse.layers]
    assert kinds == ["Mlp", "Mlp", "MixtureOfExperts", "MixtureOfExperts"]


def test_a_nested_decoder_takes_what_its_class_assumes() -> None:
    """Pixtral's text decoder leaves out its 32 heads, and its tower is left out with a word."""
    text = {
        "model_type": "mistral",
        "hidden_size": 5120,
        "head_dim": 128,
        "num_hidden_layers": 40,
        "vocab_size": 131072,
    }
    pixtral = {"model_type": "llava", "text_config": text, "vision_config": {"model_type": "pixtral"}}
    model = from_hf_config(pixtral, name="pixtral-12b")
    assert model.parameters() == 12_247_782_400  # as Mistral Nemo
    assert model.left_out == ("vision tower",)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (_GEMMA4 | {"use_bidirectional_attention": "all"}, "a decoder sees no later tokens"),
        (_GEMMA4 | {"num_kv_shared_layers": 6}, "less than num_hidden_layers = 6"),
        (_STEP | {"moe_layers_enum": "2,x"}, "numbers of layers, separated by commas"),
        (_STEP | {"attention_other_setting": {"attention_type": "full_attention"}}, "must be sliding_attention"),
        (_toy("hunyuan_v1_moe", num_experts=8, moe_topk=[2, 3] * 4), "the same integer >= 1 for every layer"),
        (_toy("olmoe", num_experts=8, num_experts_per_tok=9), "at most num_experts = 8"),
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


def test_layers_may_state_their_own_kinds() -> None:
    """Transformers 5 writes sizes of single layers and which feed-forwards are sparse as lists."""
    plain = from_hf_config(_GEMMA4, name="x")
    table = {"05": {"head_dim": 64}}
    stated = {key: value for key, value in _GEMMA4.items() if key != "global_head_dim"} | {"per_layer_config": table}
    assert from_hf_config(stated, name="x") == plain
    with pytest.raises(UserError, match="'num_attention_heads' is 4, must be num_key_value_heads or head_dim"):
        from_hf_config(stated | {"per_layer_config": {"05": {"num_attention_heads": 4}}}, name="x")
    with pytest.raises(UserError, match="the sizes of one of 6 layers"):
        from_hf_config(stated | {"per_layer_config": {"6": {"head_dim": 4}}}, name="x")
    dots = _toy("dots1", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, first_k_dense_replace=2)
    types = ["dense"] * 2 + ["sparse"] * 6
    assert from_hf_config(dots, name="x") == from_hf_config(dots | {"mlp_layer_types": types}, name="x")
    with pytest.raises(UserError, match="dense or sparse"):
        from_hf_config(dots | {"mlp_layer_types": types[1:]}, name="x")


def test_minimax_m3_counts_exactly_and_sees_a_few_blocks() -> None:
    """Sparse layers have an indexer and see its blocks of the whole cache; lists of flags are lists of names."""
    config = _config("minimax_m3_vl_text", 256, 64, 2, 8, 4, 1000, head_dim=32, num_local_experts=8) | {
        "num_experts_per_tok": 2,
        "dense_intermediate_size": 128,
        "shared_intermediate_size": 64,
        "index_n_heads": 2,
        "index_head_dim": 32,
        "use_routing_bias": False,
    }
    named = {"layer_types": ["full_attention", "minimax_m3_sparse"], "mlp_layer_types": ["dense", "sparse"]}
    model = from_hf_config(config | named, name="x")
    assert model.parameters() == 1_473_984  # as transformers 5.24 has it
    first, second = (model.unique_blocks[index].attention(Plan()) for index in model.layers)
    assert [(call.decode.window, call.is_sparse) for call in first] == [(0, False)]
    assert [(call.decode.window, call.is_sparse) for call in second] == [(0, False), (16 * 128, True)]
    sizes = {"sparse_attention_freq": [0, 1], "sparse_num_index_heads": 2, "sparse_index_dim": 32}
    flagged = config | {"sparse_attention_config": sizes, "moe_layer_freq": [0, 1]}
    assert from_hf_config(flagged, name="x") == model
    with pytest.raises(UserError, match="2 flags, 0 or 1"):
        from_hf_config(config | {"moe_layer_freq": [0, 2]}, name="x")


def test_step_3_has_its_published_sizes() -> None:
    """Queries from a latent: 316 B parameters, 38 B of them active, one key/value head of 256 per layer."""
    config = {
        "model_type": "step3_text",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_attention_heads": 64,
        "num_attention_groups": 1,
        "num_hidden_layers": 61,
        "max_seq_len": 65536,
        "vocab_size": 128815,
        "moe_intermediate_size": 5120,
        "moe_num_experts": 48,
        "moe_top_k": 3,
        "share_expert_dim": 5120,
        "share_q_dim": 2048,
        "head_dim": 256,
        "moe_layers_enum": ",".join(str(layer) for layer in range(4, 60)),
    }
    model = from_hf_config({"model_type": "step3_vl", "text_config": config}, name="step3")
    assert model.parameters() / 1e9 == pytest.approx(316, abs=0.5)
    assert model.active_parameters() / 1e9 == pytest.approx(38, abs=1)
    assert model.kv_bytes_per_token() == 61 * 2 * 256 * 2
    queries = [op for op in model.unique_blocks[0].token_ops(Plan(tp=8), 4) if isinstance(op, Gemm)][:2]
    assert [(gemm.n, gemm.k) for gemm in queries] == [(2048 + 2 * 256, 7168), (64 // 8 * 256, 2048)]


def test_the_thinker_of_an_omni_model_is_read() -> None:
    """Qwen-Omni holds its decoder two sections deep; other wrappers hold no wrapper."""
    text = _toy("qwen3_omni_moe_text", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)
    thinker = {"model_type": "qwen3_omni_moe_thinker", "text_config": text}
    model = from_hf_config({"model_type": "qwen3_omni_moe", "thinker_config": thinker}, name="x")
    assert model.parameters() == from_hf_config(text | {"model_type": "qwen3_moe"}, name="x").parameters()
    with pytest.raises(UserError, match="must be that of a text decoder"):
        from_hf_config({"model_type": "mistral3", "text_config": thinker}, name="x")


def test_a_classifier_is_no_decoder() -> None:
    """Checkpoints of another task share the sizes of a language model; they are refused."""
    with pytest.raises(UserError, match="it classifies, scores or embeds"):
        from_hf_config(_toy("qwen3", architectures=["Qwen3ForSequenceClassification"]), name="x")
