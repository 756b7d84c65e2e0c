"""The KV cache's format: the plan's, the checkpoint's where the engine version takes it, else the activations'."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_specs.errors import UserError
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.kv_format import kv_format, served
from simulator.launch import launch_lines
from simulator.model.load_model import from_hf_config
from simulator.plan.plan import Plan, parse_plan
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "hidden_act": "silu",
}
_MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}
_FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
_COMPRESSED = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
            "input_activations": {"num_bits": 8, "type": "float", "dynamic": True},
        }
    },
}


def _dtype(quantisation: dict[str, Any], engine: str, plan: str = "tp1") -> str:
    model = from_hf_config(_LLAMA | {"quantization_config": quantisation}, name="q")
    return kv_format(model, parse_plan(plan), load_profile(engine)).dtype


@pytest.mark.parametrize(
    ("engine", "modelopt", "compressed"),
    [
        ("vllm-0.33", "fp8", "fp8"),
        ("vllm-0.18", "fp8", "fp8"),
        ("vllm-0.11", "bf16", "bf16"),
        ("vllm-0.10", "bf16", "bf16"),
        ("vllm-0.6", "bf16", "bf16"),
        ("sglang-0.5", "fp8", "bf16"),
        ("tensorrt-llm-1.0", "fp8", "bf16"),
    ],
)
def test_engines_that_take_it_take_it_from_the_checkpoint(engine: str, modelopt: str, compressed: str) -> None:
    """As each version's sources have it, for the string and the object that ModelOpt writes, and for llm-compressor."""
    assert _dtype(_MODELOPT | {"kv_cache_quant_algo": "FP8"}, engine) == modelopt
    assert _dtype(_MODELOPT | {"kv_cache_scheme": _FLOAT8}, engine) == modelopt
    assert _dtype(_COMPRESSED | {"kv_cache_scheme": _FLOAT8}, engine) == compressed
    assert _dtype(_COMPRESSED | {"kv_cache_scheme": None}, engine) == "bf16"
    assert _dtype(_MODELOPT | {"kv_cache_quant_algo": None}, engine) == "bf16"


@pytest.mark.parametrize("engine", ["vllm-0.33", "vllm-0.11"])
@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_the_plan_overrules_the_checkpoint(engine: str, kv: str) -> None:
    """A format the plan names is run, whatever the checkpoint says."""
    assert _dtype(_MODELOPT | {"kv_cache_quant_algo": "FP8"}, engine, f"tp1-kv.{kv}") == kv


def test_a_version_that_cannot_be_overruled_says_so() -> None:
    """Version 0.18 of vLLM runs llm-compressor's FP8 KV whatever its flag says, 0.33 asks only where no flag does."""
    model = from_hf_config(_LLAMA | {"quantization_config": _COMPRESSED | {"kv_cache_scheme": _FLOAT8}}, name="q")
    asked = parse_plan("tp1-kv.bf16")
    refusal = kv_format(model, asked, load_profile("vllm-0.18")).refusal
    assert refusal is not None
    assert "kv_cache_scheme" in refusal
    assert kv_format(model, asked, load_profile("vllm-0.33")).refusal is None
    assert kv_format(model, parse_plan("tp1-kv.fp8"), load_profile("vllm-0.18")).refusal is None


def test_a_file_without_producer_is_not_modelopts_for_vllm(tmp_path: Path) -> None:
    """Only vLLM looks at the producer of hf_quant_config.json; SGLang and TensorRT-LLM do not."""
    (tmp_path / "config.json").write_text(json.dumps(_LLAMA))
    written: dict[str, Any] = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    found = {}
    for producer in (None, {"name": "modelopt", "version": "0.29.0"}):
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(written | {"producer": producer}))
        model = from_hf_config(tmp_path)
        assert model.quantisation == "fp8"
        for engine in ("vllm-0.33", "sglang-0.5", "tensorrt-llm-1.0"):
            chosen = kv_format(model, Plan(), load_profile(engine))
            found[engine, producer is None] = chosen.dtype
            assert ("producer" in chosen.why) == (engine == "vllm-0.33" and producer is None)
    assert found == {
        ("vllm-0.33", True): "bf16",
        ("vllm-0.33", False): "fp8",
        ("sglang-0.5", True): "fp8",
        ("sglang-0.5", False): "fp8",
        ("tensorrt-llm-1.0", True): "fp8",
        ("tensorrt-llm-1.0", False): "fp8",
    }


def test_what_no_engine_reads_is_said_and_not_followed() -> None:
    """AutoFP8 writes a scheme that engines pass over: the cache stays in 16 bits, and the answer says why."""
    model = from_hf_config(_LLAMA | {"quantization_config": {"quant_method": "fp8", "kv_cache_scheme": "static"}})
    for engine in ("vllm-0.33", "vllm-0.6", "sglang-0.5"):
        chosen = kv_format(model, Plan(), load_profile(engine))
        assert chosen.dtype == "bf16"
        assert "kv_cache_scheme" in chosen.why


def _start(quantisation: dict[str, Any], engine: str, plan: str) -> tuple[Serving, StartedPlan | Refusal]:
    model = from_hf_config(_LLAMA | {"quantization_config": quantisation}, name="q")
    serving = serving_of(model, "h100-sxm-1", engine)
    return serving, serving.start(parse_plan(plan), parse_workload("synthetic:isl=200,osl=50,rate=1,n=2"))


def test_blocks_and_prices_are_those_of_the_format() -> None:
    """What the checkpoint asks for gives the blocks and the step times of the same format asked for by the plan."""
    asks = _MODELOPT | {"kv_cache_quant_algo": "FP8"}
    (serving, own), (_, named) = (_start(asks, "vllm-0.33", plan) for plan in ("tp1", "tp1-kv.fp8"))
    (_, wide), (_, old) = _start(asks, "vllm-0.33", "tp1-kv.bf16"), _start(asks, "vllm-0.11", "tp1")
    assert isinstance(own, StartedPlan)
    assert isinstance(named, StartedPlan)
    assert isinstance(wide, StartedPlan)
    assert isinstance(old, StartedPlan)
    assert (
        own.memory.num_gpu_blocks
        == named.memory.num_gpu_blocks
        == pytest.approx(2 * wide.memory.num_gpu_blocks, rel=1e-3)
    )
    assert (own.compiled.tables().decode_ps == named.compiled.tables().decode_ps).all()
    assert old.kv.dtype == "bf16"
    assert served(serving.model, Plan(), serving.profile).kv_dtype == "fp8"
    assert str(own.plan) == "tp1"
    assert any("kv_cache_quant_algo" in note and "fp8" in note for note in serving.price_notes())


def test_the_command_names_the_format_where_the_engine_would_choose_another() -> None:
    """fp8 is named, bf16 only where the checkpoint asks for fp8 and the engine would take it."""
    for asks, engine, plan, flag in (
        (True, "vllm-0.33", "tp1", "fp8"),
        (True, "vllm-0.33", "tp1-kv.bf16", "bfloat16"),
        (True, "vllm-0.11", "tp1-kv.bf16", "auto"),
        (False, "vllm-0.33", "tp1-kv.bf16", "auto"),
        (False, "sglang-0.5", "tp1-kv.fp8", "fp8_e4m3"),
        (True, "sglang-0.5", "tp1-kv.bf16", "bfloat16"),
    ):
        serving, start = _start(_MODELOPT | ({"kv_cache_quant_algo": "FP8"} if asks else {}), engine, plan)
        assert isinstance(start, StartedPlan)
        line = " ".join(launch_lines(serving, start))
        assert f"--kv-cache-dtype {flag} " in line


def test_a_format_the_engine_takes_but_nobody_prices_is_refused() -> None:
    """NVFP4 KV under vLLM 0.33 is not silently 16 bits wide; a plan that names a format is not stopped."""
    asks = _MODELOPT | {"quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"}
    model = from_hf_config(_LLAMA | {"quantization_config": asks}, name="q")
    refusal = kv_format(model, Plan(), load_profile("vllm-0.33")).refusal
    assert refusal is not None
    assert "nvfp4" in refusal
    assert "kv.fp8" in refusal
    assert kv_format(model, parse_plan("tp1-kv.fp8"), load_profile("vllm-0.33")).refusal is None
    assert kv_format(model, Plan(), load_profile("vllm-0.18")).dtype == "bf16"


@pytest.mark.parametrize(
    ("quantisation", "said"),
    [
        (_COMPRESSED | {"kv_cache_scheme": {"num_bits": 8, "type": "int"}}, "kv_cache_scheme"),
        (_COMPRESSED | {"kv_cache_scheme": "fp8"}, "kv_cache_scheme"),
        (_MODELOPT | {"kv_cache_quant_algo": 8}, "kv_cache_quant_algo"),
    ],
)
def test_a_statement_no_engine_reads_is_refused_by_its_key(quantisation: dict[str, Any], said: str) -> None:
    """Integer KV of compressed-tensors, and values of another type."""
    with pytest.raises(UserError, match=said):
        from_hf_config(_LLAMA | {"quantization_config": quantisation}, name="q")
