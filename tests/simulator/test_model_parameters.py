"""Parameter counts and KV bytes of bundled and hand-written configs against published figures."""

import re
from pathlib import Path
from typing import Any

import pytest

from simulator.model.load_model import bundled_models, from_hf_config, load_model

# Totals the checkpoints' own safetensors headers state (with a tied head counted once).
PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "codellama-34b": 33_743_970_304,
    "deepseek-v3": 671_026_419_200,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-27b": 27_009_346_304,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-large-2407": 122_610_069_504,
    "phi-4": 14_659_507_200,
    "mixtral-8x7b": 46_702_792_704,
    "yi-34b": 34_388_917_248,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "glm-4.5-air": 106_852_251_264,
    "kimi-k2": 1_026_408_232_448,
    "mamba-codestral-7b": 7_285_403_648,
    "nemotron-h-8b": 8_100_852_736,
    "nemotron-3-nano-30b-a3b": 31_577_940_288,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-14b": 14_768_307_200,
    "qwen3-coder-480b-a35b": 480_154_875_392,
    "minimax-m2.5": 228_689_748_992 + 62 * 256,  # the published total leaves out the routers' correction biases
}

_CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
}
_LLAMA4 = {
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_experts_per_tok": 1,
    "vocab_size": 202048,
    "max_position_embeddings": 1048576,
    "hidden_act": "silu",
}
_LLAMA4_VISION = {
    "hidden_size": 1408,
    "intermediate_size": 5632,
    "num_hidden_layers": 34,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
# Nested configs leave out what equals their class's defaults.
_VICUNA = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
_GEMMA_4B = {
    "model_type": "gemma3_text",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "sliding_window": 1024,
}


def _gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": 1024,
        "vocab_size": 50257,
        "activation_function": "gelu_new",
    }


def _opt(width: int, layers: int, heads: int, **more: object) -> dict[str, Any]:
    sizes = {"hidden_size": width, "ffn_dim": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads}
    shared = {"max_position_embeddings": 2048, "vocab_size": 50272, "activation_function": "relu"}
    return {"model_type": "opt", **sizes, **shared, **more}


def _t5(inner: int, **more: object) -> dict[str, Any]:
    sizes = {"d_model": 768, "d_ff": inner, "d_kv": 64, "num_layers": 12, "num_heads": 12, "vocab_size": 32128}
    return {"model_type": "t5", **sizes, **more}


def _whisper(width: int, layers: int, heads: int, vocab: int, mel: int) -> dict[str, Any]:
    sides = {}
    for side in ("encoder", "decoder"):
        sides |= {f"{side}_layers": layers, f"{side}_attention_heads": heads, f"{side}_ffn_dim": 4 * width}
    lengths = {"max_source_positions": 1500, "max_target_positions": 448}
    rest = {"vocab_size": vocab, "num_mel_bins": mel, "activation_function": "gelu"}
    return {"model_type": "whisper", "d_model": width, **sides, **lengths, **rest}


def _llama_like(kind: str, *sizes: int) -> dict[str, Any]:
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    named = dict(zip((*keys, "vocab_size"), sizes, strict=True))
    return {"model_type": kind, "max_position_embeddings": 16384, "hidden_act": "silu", **named}


def _deepseek(width: int, layers: int, heads: int, experts: int, **more: object) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    latent = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    mixture = {"n_routed_experts": experts, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1}
    rest = {"model_type": "deepseek_v2", "vocab_size": 102400, "max_position_embeddings": 163840, "hidden_act": "silu"}
    return {**sizes, **latent, **mixture, **rest, **more}


OTHER_FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2": (_gpt2(768, 12, 12), 124_439_808),
    "gpt2-xl": (_gpt2(1600, 48, 25), 1_557_611_200),
    "pythia-6.9b": (
        {
            "model_type": "gpt_neox",
            "hidden_size": 4096,
            "intermediate_size": 16384,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "vocab_size": 50432,
            "hidden_act": "gelu",
        },
        6_857_302_016,
    ),
    "bloom-560m": (
        {"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880},
        559_214_592,
    ),
    "opt-125m": (_opt(768, 12, 12), 125_239_296),
    "opt-350m": (_opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False), 331_196_416),
    "phi-4": (_llama_like("phi3", 5120, 17920, 40, 40, 10, 100352), 14_659_507_200),
    "granite-3.1-8b": (
        _llama_like("granite", 4096, 12800, 40, 32, 8, 49155) | {"tie_word_embeddings": True},
        8_170_848_256,
    ),
    "internlm2-7b": (_llama_like("internlm2", 4096, 14336, 32, 32, 8, 92544), 7_737_708_544),
    "llama-4-scout": (
        {"model_type": "llama4", "vision_config": _LLAMA4_VISION, "text_config": _LLAMA4 | {"num_local_experts": 16}},
        108_641_793_536,
    ),
    "llama-4-maverick": (
        {
            "model_type": "llama4",
            "vision_config": _LLAMA4_VISION,
            "text_config": _LLAMA4 | {"num_local_experts": 128, "interleave_moe_layer_step": 2},
        },
        401_583_781_376,
    ),
    "glm-4.5-air": (
        _llama_like("glm4_moe", 4096, 10944, 46, 96, 8, 151552)
        | {"head_dim": 128, "moe_intermediate_size": 1408, "attention_bias": True, "use_qk_norm": False}
        | {"n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1},
        106_852_245_504 + 45 * 128,  # the published total leaves out the routers' correction biases
    ),
    "deepseek-v2-lite": (
        _deepseek(2048, 27, 16, 64, intermediate_size=10944, moe_intermediate_size=1408, q_lora_rank=None),
        15_706_484_224,
    ),
    "deepseek-v2": (
        _deepseek(5120, 60, 128, 160, intermediate_size=12288, moe_intermediate_size=1536, q_lora_rank=1536),
        235_741_434_880,
    ),
    "qwen1.5-moe-a2.7b": (
        {
            "model_type": "qwen2_moe",
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "vocab_size": 151936,
            "max_position_embeddings": 8192,
            "hidden_act": "silu",
        },
        14_315_784_192,
    ),
    "t5-base": (_t5(3072), 222_903_552),
    "flan-t5-base": (_t5(2048, feed_forward_proj="gated-gelu", tie_word_embeddings=False), 247_577_856),
    "whisper-base": (_whisper(512, 6, 8, 51865, 80), 72_593_920),
    "whisper-large-v3": (_whisper(1280, 32, 20, 51866, 128), 1_543_490_560),
    "llava-1.5-7b": ({"model_type": "llava", "text_config": _VICUNA, "vision_config": _CLIP}, 7_063_427_072),
    "mistral-small-3.2-24b, text": (
        {
            "model_type": "mistral3",
            "text_config": _llama_like("mistral", 5120, 32768, 40, 32, 8, 131072) | {"head_dim": 128},
        },
        23_572_403_200,
    ),
    "qwen2.5-vl-7b, text": (_llama_like("qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064), 7_615_616_512),
    "qwen2-vl-72b, text": (
        {"model_type": "qwen2_vl", "text_config": _llama_like("qwen2_vl_text", 8192, 29568, 80, 64, 8, 152064)},
        72_706_203_648,
    ),
    "command-r-v01": (_llama_like("cohere", 8192, 22528, 40, 64, 64, 256000), 34_980_831_232),
    "command-r-plus": (
        _llama_like("cohere", 12288, 33792, 64, 96, 8, 256000) | {"use_qk_norm": True},
        103_810_674_688,
    ),
    "command-r7b": (_llama_like("cohere2", 4096, 14336, 32, 32, 8, 256000) | {"sliding_window": 4096}, 8_028_033_024),
    "command-a": (
        _llama_like("cohere2", 12288, 36864, 64, 96, 8, 256000) | {"head_dim": 128, "sliding_window": 4096},
        111_057_580_032,
    ),
    "gemma-3-4b-it": (
        {"model_type": "gemma3", "text_config": _GEMMA_4B, "vision_config": _SIGLIP},
        4_300_079_472,
    ),
}


@pytest.mark.parametrize(("name", "total"), PUBLISHED.items())
def test_bundled_models_have_exactly_their_published_parameters(name: str, total: int) -> None:
    """A bundled config's parameter count is the one its checkpoint states, to the last parameter."""
    assert load_model(name).parameters() == total


@pytest.mark.parametrize(("name", "case"), OTHER_FAMILIES.items())
def test_every_family_counts_exactly(name: str, case: tuple[dict[str, Any], int]) -> None:
    """Older decoders, encoder-decoders and vision wrappers count exactly too."""
    config, total = case
    assert from_hf_config(config, name=name).parameters() == total


def _reference_rows() -> list[tuple[str, float, float, int]]:
    """(bundled name, parameters in 1e9, active in 1e9 or the same, KV bytes per token) of the reference table."""
    reference = Path(__file__).parents[3] / "shared" / "reference" / "engine_and_kernels.md"
    if not reference.exists():
        return []
    rows = []
    for line in reference.read_text(encoding="utf-8").partition("### 6.3")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        counts = re.match(r"([\d.]+)(?: \(([\d.]+)\))?", cells[8]) if len(cells) == 11 else None
        kv = re.match(r"\d+", cells[9]) if len(cells) == 11 else None
        if counts and kv:
            name = cells[0].lower().partition("/")[0]
            rows.append((name, float(counts[1]), float(counts[2] or counts[1]), int(kv[0])))
    return rows


def test_reference_table_agrees() -> None:
    """Total and active parameters (to the table's digits) and KV bytes per token agree for every row with a total."""
    rows = _reference_rows()
    if not rows:
        pytest.skip("../shared/reference/engine_and_kernels.md is absent")
    assert len(rows) >= 20
    for name, total, active, kv in rows:
        model = load_model(name)
        assert model.parameters() / 1e9 == pytest.approx(total, abs=0.06), name
        assert model.active_parameters() / 1e9 == pytest.approx(active, abs=0.06), name
        assert model.kv_bytes_per_token() == kv, name


@pytest.mark.parametrize(("name", "kv"), [("gemma-3-4b", 139264), ("gemma-3-12b", 393216), ("deepseek-v3", 70272)])
def test_kv_bytes_per_token(name: str, kv: int) -> None:
    """KV bytes per token follow from heads and widths (MLA: one 576-wide latent per layer)."""
    assert load_model(name).kv_bytes_per_token() == kv


@pytest.mark.parametrize("name", bundled_models())
def test_repetition_is_kept_out_of_the_model(name: str) -> None:
    """A model has as many unique blocks as it has kinds of layer (three at most), whatever its size."""
    model = load_model(name)
    assert len(model.unique_blocks) <= 3
    assert sum(count for _, count in model.blocks) == model.num_layers


def test_a_trillion_parameters_is_one_block() -> None:
    """The synthetic trillion-parameter Llama is one block repeated."""
    model = load_model("llama-1t")
    assert model.parameters() > 1e12
    assert len(model.unique_blocks) == 1
