"""Which `model_type`s each serving engine runs.

From the registries of vLLM 0.33 (``model_executor/models/registry.py``), SGLang 0.5 (``srt/models``) and TensorRT-LLM
1.0 (``_torch/models``).
"""

from typing import Final

_COMMON: Final = frozenset(
    {
        "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "gemma2", "gemma3", "gemma3_text",
        "glm4_moe", "glm_moe_dsa", "gpt2", "gpt_oss", "granite", "internlm2", "kimi_k2", "kimi_k25", "llama",
        "llama4", "llama4_text", "llava", "minimax_m2", "ministral", "ministral3", "mistral", "mistral3", "mixtral",
        "phi3", "qwen2", "qwen2_5_vl", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text",
        "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe",
    }
)  # fmt: skip
SERVED: Final = {
    "vllm": _COMMON | {"aya_vision", "bloom", "cohere2_vision", "gpt_neox", "opt", "whisper"},
    "sglang": _COMMON,
    "tensorrt-llm": _COMMON - {"granite", "internlm2", "gpt2", "gemma2", "cohere"},
}
