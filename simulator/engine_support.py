"""Which serving engines can run a plan today, and why not: the architectures, formats and layouts each implements.

The lists follow what vLLM 0.33, SGLang 0.5 and TensorRT-LLM 1.0 (PyTorch backend) document as supported; they are not
derived from the engines' sources.
"""

from typing import Final

from simulator.model.linear import FP8, UNQUANTISED, WEIGHT_ONLY, activation_dtype
from simulator.model.spec import ModelSpec
from simulator.plan import Plan

ENGINES: Final = ("vllm", "sglang", "tensorrt-llm")

_COMMON: Final = frozenset(
    {
        "llama", "mistral", "phi3", "granite", "internlm2", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe",
        "minimax_m2", "glm4_moe", "deepseek_v2", "deepseek_v3", "kimi_k2", "gpt_oss", "gemma2", "gemma3", "gemma3_text",
        "gpt2", "llama4", "llama4_text", "llava", "deepseek_v32", "glm_moe_dsa", "qwen3_vl", "qwen3_vl_moe", "kimi_k25",
        "qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text",
    }
)  # fmt: skip
_ARCHITECTURES: Final = {
    "vllm": _COMMON | {"gpt_neox", "bloom", "opt", "whisper"},
    "sglang": _COMMON,
    "tensorrt-llm": _COMMON - {"granite", "internlm2", "gpt2", "gemma2"},
}
_WEIGHT_FORMATS: Final[dict[str, frozenset[str]]] = {
    "vllm": frozenset({"fp8", "fp8_block", "w8a8", "w8a16", "w4a16", "w4a8", "mxfp4", "nvfp4", *UNQUANTISED}),
    "sglang": frozenset({"fp8", "fp8_block", "w8a8", "w4a16", "mxfp4", "nvfp4", *UNQUANTISED}),
    "tensorrt-llm": frozenset({"fp8", "fp8_block", "w4a16", "w4a8", "mxfp4", "nvfp4", *UNQUANTISED}),
}


def engines_for(model: ModelSpec, plan: Plan) -> dict[str, str | None]:
    """For each engine None, or why it cannot run ``model`` laid out as ``plan``."""
    return {engine: _refusal(engine, model, plan) for engine in ENGINES}


def converted_checkpoint(model: ModelSpec, plan: Plan) -> str | None:
    """Return the format ``plan`` needs a converted checkpoint for; None when the engine makes it while loading."""
    if plan.weight_dtype in {None, "fp8", *UNQUANTISED} or plan.weight_dtype == model.quantisation:
        return None
    return None if plan.weight_dtype == WEIGHT_ONLY and model.quantisation in FP8 else plan.weight_dtype


def _refusal(engine: str, model: ModelSpec, plan: Plan) -> str | None:
    if model.architecture not in _ARCHITECTURES[engine]:
        return f"{engine} does not serve {model.architecture} models"
    scheme = plan.weight_dtype or model.quantisation
    if scheme is not None and scheme not in _WEIGHT_FORMATS[engine]:
        return f"{engine} does not run {scheme} weights"
    if plan.kv_dtype not in {None, "fp8", activation_dtype(plan, model.dtype)}:
        return f"{engine} keeps KV in the activations' format or fp8, not {plan.kv_dtype}"
    if engine == "sglang" and plan.attention_dp > 1 and plan.pp > 1:
        return "sglang does not combine attention data parallelism with pipeline stages"
    return None
