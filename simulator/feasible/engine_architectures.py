"""Which `model_type`s each serving engine runs.

From the registries of vLLM 0.33 (``model_executor/models/registry.py``; some run on its transformers backend), SGLang
0.5.23 (``srt/models``) and TensorRT-LLM (``_torch/models/_arch_index.py``, PyTorch backend).
"""

from typing import Final

_COMMON: Final = frozenset(
    {
        "afmoe", "apertus", "arcee", "bailing_moe", "cohere", "cohere2", "deepseek", "deepseek_v2", "deepseek_v3",
        "deepseek_v32", "deepseek_vl_v2", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "gemma", "gemma2",
        "gemma3", "gemma3_text", "gemma4", "gemma4_text", "glm4", "glm4_moe", "glm4_moe_lite", "glm4v", "glm4v_moe",
        "glm_moe_dsa", "gpt2", "gpt_oss", "granite", "granitemoe", "granitemoeshared", "hunyuan_v1_dense",
        "hunyuan_v1_moe", "internlm2", "internlm3", "internvl", "internvl_chat", "iquestcoder", "kimi_k2", "kimi_k25",
        "kimi_vl", "llama", "llama4", "llama4_text", "llava", "llava_next", "mimo", "minicpm", "minimax_m2",
        "minimax_m3", "minimax_m3_text", "minimax_m3_vl", "ministral", "ministral3", "mistral", "mistral3", "mixtral",
        "olmo", "olmo2", "olmo3", "olmoe", "orion", "phi", "phi3", "phimoe", "qwen2", "qwen2_5_vl", "qwen2_moe",
        "qwen2_vl", "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next",
        "qwen3_vl", "qwen3_vl_moe", "seed_oss", "smollm3", "stablelm", "starcoder2", "step3_text", "step3_vl",
        "step3p5",
    }
)  # fmt: skip
SERVED: Final = {
    "vllm": _COMMON
    | {
        "aya_vision", "bloom", "cohere2_vision", "cwm", "glm", "gpt_neox", "idefics3", "llava_onevision", "mamba2",
        "nemotron", "nemotron_h", "opt", "paligemma", "qwen2_5_omni", "qwen2_5_omni_thinker", "qwen2_audio",
        "qwen3_omni_moe", "qwen3_omni_moe_thinker", "smolvlm", "step3p7", "whisper",
    },
    "sglang": _COMMON | {"cohere2_vision", "nemotron_h"},
    "tensorrt-llm": frozenset(
        {
            "deepseek_v3", "deepseek_v32", "exaone4", "gemma3", "gemma3_text", "glm4_moe", "glm_moe_dsa", "gpt_oss",
            "hunyuan_v1_dense", "hunyuan_v1_moe", "kimi_k2", "kimi_k25", "llama", "llama4", "llama4_text",
            "llava_next", "minimax_m2", "ministral", "mistral", "mistral3", "mixtral", "nemotron", "nemotron_h", "phi3",
            "qwen2", "qwen2_5_vl", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text",
            "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe", "seed_oss", "starcoder2",
        }
    ),
}  # fmt: skip
# The first version with what an older profile of the engine has not: a ``model_type``, or experts in one.
SINCE: Final[dict[str, dict[str, tuple[int, int]]]] = {
    # pulls 9292, 18863, 25863, 21088
    "vllm": {"mamba2": (0, 8), "nemotron_h": (0, 10), "nemotron_h with experts": (0, 12), "whisper": (0, 11)},
}
