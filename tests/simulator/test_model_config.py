"""Reading Hugging Face configs: what is understood, and how anything else is refused."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simulator.model
from cluster_specs.errors import UserError
from costmodel.ops.op_types import Collective, Elementwise
from simulator.model.architectures import ARCHITECTURES
from simulator.model.load_model import bundled_models, from_hf_config, load_model
from simulator.plan.plan import Plan

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK = LLAMA | {
    "model_type": "deepseek_v2",
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
}


@pytest.mark.parametrize(
    ("base", "changes", "said"),
    [
        (LLAMA, {"hidden_size": None}, "key 'hidden_size' is None, must be an integer >= 1"),
        (LLAMA, {"hidden_size": "512"}, "key 'hidden_size' is '512', must be an integer >= 1"),
        (LLAMA, {"num_hidden_layers": 0}, "key 'num_hidden_layers' is 0, must be an integer >= 1"),
        (LLAMA, {"num_hidden_layers": 10**9}, "key 'num_hidden_layers' is 1000000000, must be at most 10000"),
        (LLAMA, {"num_hidden_layers": 3.5}, "key 'num_hidden_layers' is 3.5"),
        (LLAMA, {"vocab_size": True}, "key 'vocab_size' is True"),
        (LLAMA, {"vocab_size": -1}, "key 'vocab_size' is -1"),
        (LLAMA, {"vocab_size": 2**63}, "key 'vocab_size' is 9223372036854775808, must be at most 16777216"),
        (LLAMA, {"vocab_size": 10**500}, r"key 'vocab_size' is 10+\.\.\., must be at most 16777216"),
        (LLAMA, {"vocab_size": 1e5}, r"key 'vocab_size' is 100000\.0, must be an integer"),
        (
            LLAMA,
            {"hidden_size": 2**24, "intermediate_size": 2**24},
            r"a model of 6\.\d+e\+15 parameters, must be at most 1e",
        ),
        (LLAMA, {"layer_types": ["x" * 100_000]}, "key 'layer_types' is .{20,80}, must be"),
        (LLAMA, {"num_key_value_heads": 3}, "must be a divisor of num_attention_heads = 8"),
        (LLAMA, {"num_attention_heads": 7, "num_key_value_heads": 7}, "a divisor of hidden_size = 512"),
        (LLAMA, {"hidden_act": "snake"}, "key 'hidden_act' is 'snake', must be one of"),
        (LLAMA, {"torch_dtype": "int8"}, "key 'torch_dtype' is 'int8', must be one of bfloat16"),
        (LLAMA, {"tie_word_embeddings": "no"}, "must be true or false"),
        (LLAMA, {"model_type": "mamba"}, "model_type 'mamba' is not supported: its state-space"),
        (LLAMA, {"model_type": None}, "key 'model_type' is None, must be a string"),
        (LLAMA, {"index_topk": 2048}, "sparse attention chosen by an indexer is not modelled"),
        (LLAMA, {"num_local_experts": 8}, "this architecture is dense"),
        (LLAMA, {"layer_types": ["full_attention"]}, "a list of num_hidden_layers = 4 names"),
        (LLAMA, {"layer_types": ["linear_attention"] * 4}, "not linear_attention"),
        (LLAMA, {"layer_types": ["sliding_attention"] * 4}, "because layer_types names sliding_attention"),
        (LLAMA, {"layer_types": "full_attention"}, "must be a list of strings"),
        (LLAMA, {"quantization_config": "fp8"}, "must be an object"),
        (LLAMA, {"quantization_config": {"quant_method": "bitsandbytes"}}, "must be one of fp8, fbgemm_fp8"),
        (MIXTRAL, {"num_experts_per_tok": 9}, "must be at most the 8 experts"),
        (MIXTRAL, {"num_local_experts": None}, "key 'num_local_experts' is None"),
        (DEEPSEEK, {"first_k_dense_replace": 5}, "must be at most num_hidden_layers = 4"),
        (DEEPSEEK, {"kv_lora_rank": None}, "key 'kv_lora_rank'"),
        ({"model_type": "gemma3"}, {}, "key 'text_config' is missing"),
        ({"model_type": "t5"}, {"feed_forward_proj": "maxout"}, "must be one of relu, gated-gelu"),
    ],
)
def test_a_config_we_cannot_use_is_refused(base: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    """Missing, mistyped, contradictory and unsupported keys: one message with place, key, value and limit."""
    with pytest.raises(UserError, match=said) as caught:
        from_hf_config(base | changes, name="toy.json")
    assert str(caught.value).startswith("toy.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (json.dumps(LLAMA).encode()[:100], "line 1 column"),
        (b"[1, 2]", "holds a list, must be an object"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "too many digits"),
        (b"[" * 9000, "not usable JSON|not JSON"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    """A damaged file is refused with its path and where it breaks."""
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        load_model(file)
    assert str(file) in str(caught.value)


def test_a_missing_model_suggests_near_names(tmp_path: Path) -> None:
    """A mistyped name is answered with the nearest bundled ones; a folder without a config with its path."""
    with pytest.raises(
        UserError, match="neither a bundled name, a known Hugging Face id nor an existing path"
    ) as caught:
        load_model("llama-3-70b")
    assert "llama-3.1-70b" in caught.value.hint
    with pytest.raises(UserError, match=r"is a folder without a config\.json"):
        load_model(tmp_path)


def test_metadata_keys_are_ignored() -> None:
    """Keys that do not change the computation are normal in real configs and change nothing."""
    extra = {"transformers_version": "4.51", "bos_token_id": 1, "rope_theta": 500000.0, "pretraining_tp": 1}
    assert from_hf_config(LLAMA | extra, name="a") == from_hf_config(LLAMA, name="a")


def test_missing_keys_fall_back_as_hugging_face_does() -> None:
    """No head_dim: hidden / heads; no key/value heads: as many as heads; no dtype or float32: 16 bits."""
    bare = {key: value for key, value in LLAMA.items() if key not in {"num_key_value_heads", "torch_dtype"}}
    model = from_hf_config(bare, name="bare")
    assert model.kv_bytes_per_token() == 4 * 2 * 512 * 2
    assert model.dtype == "bf16"
    assert from_hf_config(LLAMA | {"torch_dtype": "float32"}, name="x").dtype == "bf16"
    assert from_hf_config(LLAMA | {"torch_dtype": None, "dtype": "float16"}, name="x").dtype == "fp16"


def test_a_folder_is_read_by_its_name(tmp_path: Path) -> None:
    """A checkpoint folder is a model named like the folder."""
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    assert load_model(folder).name == "my-model"
    assert load_model(folder) == load_model(folder / "config.json")


def test_windows_follow_their_keys() -> None:
    """A window applies to all layers, to those past max_window_layers, or to none when switched off."""

    def windows(**changes: object) -> list[int]:
        model = from_hf_config(LLAMA | {"sliding_window": 256} | changes, name="x")
        return [call.decode.window for block, n in model.blocks for call in block.attention(Plan()) for _ in range(n)]

    assert windows() == [256] * 4
    assert windows(max_window_layers=3) == [0, 0, 0, 256]
    assert windows(use_sliding_window=False) == [0] * 4
    assert windows(layer_types=["sliding_attention", "full_attention"] * 2) == [256, 0] * 2


def test_direct_queries_without_a_query_latent() -> None:
    """DeepSeek-V2-Lite style: q_lora_rank null projects queries straight from the hidden state."""
    model = from_hf_config(DEEPSEEK | {"q_lora_rank": None}, name="lite")
    attention = 512 * (64 + 16) + 512 * 8 * 48 + 64 * 8 * 64 + 8 * 32 * 512 + 512 + 64
    assert model.unique_blocks[0].cells[0].parameters() == attention
    shared = 3 * 512 * 2 * 128
    assert model.unique_blocks[1].cells[1].parameters() == 8 * 3 * 512 * 128 + shared + 512 * 8 + 512


def test_dense_layers_of_a_qwen_mixture() -> None:
    """mlp_only_layers and decoder_sparse_step leave layers dense."""
    base = MIXTRAL | {"model_type": "qwen3_moe", "moe_intermediate_size": 128}
    kinds = [
        type(block.cells[1]).__name__
        for block, count in from_hf_config(base | {"mlp_only_layers": [0], "decoder_sparse_step": 2}, name="x").blocks
        for _ in range(count)
    ]
    assert kinds == ["Mlp", "MixtureOfExperts", "Mlp", "MixtureOfExperts"]


_CONFIGS = [
    json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((Path(simulator.model.__file__).parent / "configs").glob("*.json"))
]
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "num_shared_experts": 1}
_CONFIGS += [
    LLAMA | {"model_type": "cohere2", "sliding_window": 256, "use_qk_norm": True},
    LLAMA | {"model_type": "smollm3", "no_rope_layers": [1, 0, 1, 0], "use_sliding_window": False},
    LLAMA | {"model_type": "exaone4", "sliding_window": 256, "sliding_window_pattern": "LLLG"},
    LLAMA | {"model_type": "afmoe", "num_dense_layers": 1, "global_attn_every_n_layers": 2} | _EXPERTS,
    LLAMA | {"model_type": "exaone_moe", "mlp_layer_types": ["dense"] + ["sparse"] * 3} | _EXPERTS,
    LLAMA | {"model_type": "hunyuan_v1_moe", "moe_topk": [2] * 4, "num_shared_expert": [1] * 4} | _EXPERTS,
    LLAMA | {"model_type": "ernie4_5_moe", "moe_num_experts": 8, "moe_k": 2, "moe_layer_end_index": 2} | _EXPERTS,
    LLAMA
    | {"model_type": "step3_text", "num_attention_groups": 1, "moe_num_experts": 8, "moe_top_k": 2}
    | {"share_q_dim": 128, "share_expert_dim": 128, "moe_layers_enum": "1,2,3", "moe_intermediate_size": 128},
    LLAMA
    | {"model_type": "gemma4_text", "num_kv_shared_layers": 2, "per_layer_config": {"3": {"head_dim": 32}}}
    | {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 64},
    LLAMA
    | {"model_type": "minimax_m3_text", "moe_layer_freq": [0, 1, 1, 1], "num_local_experts": 8}
    | {"num_experts_per_tok": 2, "sparse_attention_config": {"sparse_attention_freq": [0, 0, 1, 1]}},
    {"model_type": "internvl_chat", "llm_config": LLAMA, "vision_config": {"hidden_size": 64}},
    {"model_type": "llava", "text_config": {"model_type": "mistral"}, "vision_config": {"model_type": "pixtral"}},
    {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": LLAMA}},
]
_JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-4, 300),
    st.sampled_from([0, 10**12, 1.5, float("nan"), "", "silu", "re:(", [], [1, 2], ["full_attention"], {}, {"a": {}}]),
)


def _places(config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every (object, key) of a config, nested objects included."""
    nested = [place for value in config.values() if isinstance(value, dict) for place in _places(value)]
    return [(config, key) for key in config] + nested


@settings(max_examples=300)
@given(data=st.data())
def test_no_value_of_any_key_ends_in_anything_but_a_model_or_a_message(data: st.DataObject) -> None:
    """Whatever stands behind a key of a real config, reading it gives a usable model or an UserError."""
    config = copy.deepcopy(data.draw(st.sampled_from(_CONFIGS)))
    holder, key = data.draw(st.sampled_from(_places(config)))
    if data.draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = data.draw(_JSON)
    try:
        model = from_hf_config(config, name="mutated")
    except UserError:
        return
    assert model.parameters() >= model.active_parameters() > 0
    assert sum(model.stage_weight_bytes(Plan())) > 0
    assert model.refusal(Plan(tp=2)) is None or "must" in str(model.refusal(Plan(tp=2)))


def test_a_multimodal_checkpoint_is_its_text_decoder() -> None:
    """Qwen3-VL is read as the decoder in ``text_config``, with the formats and the tying of the whole checkpoint."""
    text = LLAMA | {"model_type": "qwen3_vl_text", "head_dim": 64}
    whole = {"model_type": "qwen3_vl", "text_config": text, "tie_word_embeddings": True, "vision_config": {"depth": 27}}
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    model = from_hf_config(whole | {"quantization_config": fp8}, name="vl")
    plain = from_hf_config(text | {"model_type": "qwen3", "tie_word_embeddings": True}, name="vl")
    assert (model.architecture, model.quantisation, model.tied_embeddings) == ("qwen3_vl", "fp8_block", True)
    assert model.parameters() == plain.parameters()
    with pytest.raises(UserError, match="'text_config' is missing"):
        from_hf_config({"model_type": "qwen3_vl"})


def test_a_multimodal_config_may_hold_its_decoder_flat_or_leave_out_defaults() -> None:
    """Qwen2.5-VL's keys stand at the top level in old files; nested keys that equal the class's defaults are absent."""
    sizes = {key: value for key, value in LLAMA.items() if key != "model_type"}
    vision = {"depth": 4, "hidden_size": 64}
    flat = from_hf_config(sizes | {"model_type": "qwen2_5_vl", "vision_config": vision}, name="vl")
    nested = from_hf_config({"model_type": "qwen2_5_vl", "text_config": sizes, "vision_config": vision}, name="vl")
    assert flat == nested
    assert flat.parameters() == from_hf_config(LLAMA | {"model_type": "qwen2"}, name="vl").parameters()
    assert flat.left_out == ("vision tower",)
    mistral = from_hf_config({"model_type": "mistral3", "text_config": {"model_type": "mistral"}}, name="m")
    assert mistral.parameters() == 7_241_732_096  # Mistral 7B's sizes are its class's defaults


def test_command_a_slides_with_positions_and_sees_all_without() -> None:
    """Three sliding layers with rope to one full layer without; one norm and one all-reduce per layer."""
    config = LLAMA | {"model_type": "cohere2", "sliding_window": 256}
    model = from_hf_config(config, name="a")
    layers = [model.unique_blocks[index].cells for index in model.layers]
    assert [attention.window for attention, _ in layers] == [256, 256, 256, 0]
    assert [attention.has_rope for attention, _ in layers] == [True, True, True, False]
    assert model.tied_embeddings
    ops = [op for cell in layers[0] for op in cell.token_ops(Plan(tp=2), 8)]
    assert sum(isinstance(op, Collective) for op in ops) == 1
    assert [op.op for op in ops if isinstance(op, Elementwise) and "norm" in op.op] == ["add_layernorm"]
    per_layer = 512 + 512 * (8 + 2 * 2) * 64 + 512 * 512 + 3 * 512 * 1024
    assert model.parameters() == 4 * per_layer + 1000 * 512 + 512


def test_an_unknown_model_type_is_answered_with_close_ones() -> None:
    """A refusal names the type, a few close ones and the page that lists all; it never prints the whole list."""
    with pytest.raises(UserError, match="model_type 'qwen3_mo' is not supported") as caught:
        from_hf_config(LLAMA | {"model_type": "qwen3_mo"})
    assert "qwen3_moe" in caught.value.hint
    assert "docs/reference/models.md" in caught.value.hint
    with pytest.raises(UserError) as caught:
        from_hf_config(LLAMA | {"model_type": "x" * 100_000})
    assert len(str(caught.value)) < 200


def test_the_page_of_models_names_every_supported_model_type() -> None:
    """docs/reference/models.md and the registry agree."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    table = page.partition("| --- | --- |")[2].partition("\n\n")[0]
    bundled = {name for name, reader in ARCHITECTURES.items() if reader.__module__.startswith("simulator.")}
    assert sorted(set(re.findall(r"`([^`]+)`", table)) ^ bundled) == []


def test_a_key_nobody_reads_is_named() -> None:
    """A key that says something and is neither read nor known to be harmless is in a note; bounded, whatever it is."""
    quiet = {"initializer_range": 0.02, "eos_token_id": 2, "rope_theta": 1e4, "use_cache": True, "head_gate": None}
    assert from_hf_config(LLAMA | quiet, name="x").notes == ()
    (note,) = from_hf_config(LLAMA | {"sparse_block_size": 64, "new_gate": False}, name="x").notes
    assert note == "x: keys of the config that are not read, taken to change no cost: sparse_block_size"
    many = {f"unheard_of_{index}": "y" * 10_000 for index in range(100)}
    (note,) = from_hf_config(LLAMA | many, name="x").notes
    assert note.endswith("and 92 more")
    assert len(note) < 300
    nested = {"model_type": "mistral3", "text_config": LLAMA | {"model_type": "mistral", "unheard_of": 1}}
    (note,) = from_hf_config(nested | {"spatial_merge_size": 2}, name="x").notes
    assert note == "x: text_config: keys of the config that are not read, taken to change no cost: unheard_of"


@pytest.mark.parametrize("name", bundled_models())
def test_every_key_of_a_bundled_config_is_understood(name: str) -> None:
    """Bundled configs hold no key that needs a note."""
    assert load_model(name).notes == ()
