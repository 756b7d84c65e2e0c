"""Measured servers that ran TensorRT-LLM."""

from typing import Final

from benchmarks.fidelity.servers.server import (
    FIXED,
    VENDOR,
    Row,
    ServingGroup,
    Settings,
    fixed_lengths,
    is_one_to_one,
    longest,
    mixture,
    number,
    rows_of,
    tensor_parallel,
)

_TABLES: Final = "trtllm-1.3.0rc20"
_DEEPSEEK: Final = "deepseek-ai/DeepSeek-R1"
_NO_DRAFTS: Final = ("1.2.0rc6.post2",)
_DRAFTS: Final = ("1.2.0rc6.post3",)
_DRAFTS_CAVEAT: Final = (
    "the benchmark runs this image with multi-token prediction only (3 drafts, 1 with attention data parallelism), "
    "which the rows do not record"
)


def _fp8(row: Row) -> str:
    return f"tp{row['tp_size']}-w.fp8-kv.fp8"


def _expert_parallel(row: Row) -> str:
    """Its launch file sets as many expert ranks as tensor ranks."""
    return f"tp{row['tp_size']}-ep{row['tp_size']}"


def _fp8_cache(row: Row) -> str:
    return f"{mixture(row)}-kv.fp8"


def _block_fp8(row: Row) -> str:
    return f"{mixture(row)}-w.fp8_block"


# enable_attention_dp with enable_balance: prompts wait until every rank has one, up to 60 steps.
_BALANCED: Final = {"attention_dp_timeout_iters": 60, "attention_dp_batching_wait_iters": 0}


def _llama(row: Row) -> Settings:
    waits = is_one_to_one(row) and number(row, "tp_size") < 8
    return {
        "max_num_seqs": 2048,
        "max_num_batched_tokens": 16384,
        "stream_interval": 10,
        "max_model_len": longest(row),
        **({"batch_wait_timeout_iters": 20, "batch_wait_max_tokens_ratio": 0.9} if waits else {}),
    }


def _gpt_oss(row: Row) -> Settings:
    return {
        "max_num_seqs": number(row, "concurrency"),
        "max_num_batched_tokens": 20000,
        "stream_interval": 20,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.85,
    }


def _step_tokens(row: Row) -> int:
    """Tokens per step: one prompt and every sequence, in whole 64s."""
    return (number(row, "concurrency") + number(row, "isl") + 64 + 63) // 64 * 64


def _balanced(row: Row) -> Settings:
    return _BALANCED if number(row, "attention_dp_size") > 1 else {}


def _deepseek_h200(row: Row) -> Settings:
    return {
        "max_num_seqs": 2048,
        "max_num_batched_tokens": _step_tokens(row),
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.75,
        "stream_interval": 10,
        **_balanced(row),
    }


def _deepseek_nvfp4(row: Row) -> Settings:
    return {
        "max_num_seqs": 2048,
        "max_num_batched_tokens": max(8192, _step_tokens(row)),
        "max_model_len": max(8192, longest(row)),
        "gpu_memory_utilization": 0.8,
        "stream_interval": 10,
        **_balanced(row),
    }


def _deepseek_b200(row: Row) -> Settings:
    """Return what its launch file says: less memory for KV in long answers at 256, and on four devices."""
    is_long_answer = row["osl"] == "8192" and number(row, "concurrency") >= 256
    is_narrow = row["isl"] == "8192" and number(row, "gpus") == 4
    share = 0.7 if is_long_answer else 0.75 if is_narrow else 0.8
    waits = is_one_to_one(row) and number(row, "concurrency") >= 64
    return {
        **_deepseek_nvfp4(row),
        "max_num_batched_tokens": _step_tokens(row),
        "gpu_memory_utilization": share,
        **({"batch_wait_timeout_iters": 40, "batch_wait_max_tokens_ratio": 0.8} if waits else {}),
    }


def _generated(row: Row) -> Settings:
    """Return what aiconfigurator's generator sets for TensorRT-LLM: a slot per request, a prompt and 1,500 tokens."""
    isl, concurrency = number(row, "isl"), number(row, "concurrency")
    return {**fixed_lengths(row), "max_num_seqs": concurrency, "max_num_batched_tokens": concurrency + isl + 1500}


TENSORRT_LLM: Final = (
    ServingGroup(
        name="TensorRT-LLM 2025, Llama-3.1-70B FP8, H200",
        where=rows_of("meta-llama/Llama-3.1-70B", "trtllm", "h200_sxm", "fp8"),
        model="llama-3.1-70b",
        device="h200-sxm",
        profile="tensorrt-llm-1.0",
        framework=_TABLES,
        plan=_fp8,
        settings=_llama,
    ),
    ServingGroup(
        name="TensorRT-LLM 2025, gpt-oss-120b MXFP4, H200",
        where=rows_of("openai/gpt-oss-120b", "trtllm", "h200_sxm", "fp4"),
        model="gpt-oss-120b",
        device="h200-sxm",
        profile="tensorrt-llm-1.2",
        framework=_TABLES,
        plan=_expert_parallel,
        settings=_gpt_oss,
        caveat="the version is not recorded; prompts run outside graphs: the host's launches decide TTFT",
    ),
    ServingGroup(
        name="TensorRT-LLM 1.1, DeepSeek-R1 FP8, H200",
        where=rows_of(_DEEPSEEK, "trtllm", "h200_sxm", "fp8", "1.1.0rc2.post2"),
        kind="sweep",
        model="deepseek-v3",
        device="h200-sxm",
        profile="tensorrt-llm-1.2",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_h200,
        caveat=(
            "the benchmark ran this image with and without multi-token prediction; the concurrencies of these rows "
            "(128 and 256 of 1,024 + 1,024 tokens) are those of the sweep with it, which the rows do not record"
        ),
    ),
    ServingGroup(
        name="TensorRT-LLM 1.2, DeepSeek-R1 FP8, B200",
        where=rows_of(_DEEPSEEK, "trtllm", "b200_sxm", "fp8", *_NO_DRAFTS),
        model="deepseek-v3",
        device="b200",
        profile="tensorrt-llm-1.2",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_b200,
        caveat=(
            "about 11 GiB less is free for the KV cache than is counted, so that long prompts wait; no start-up log "
            "says for what"
        ),
    ),
    ServingGroup(
        name="TensorRT-LLM 1.2, DeepSeek-R1 NVFP4, B200",
        where=rows_of(_DEEPSEEK, "trtllm", "b200_sxm", "fp4", *_NO_DRAFTS),
        model="deepseek-v3.1-nvfp4",
        device="b200",
        profile="tensorrt-llm-1.2",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_nvfp4,
        caveat=("60 calls per layer stand for all mixtures of this version; this server wants 48"),
    ),
    ServingGroup(
        name="TensorRT-LLM 1.2 with drafts, DeepSeek-R1 FP8, B200",
        where=rows_of(_DEEPSEEK, "trtllm", "b200_sxm", "fp8", *_DRAFTS),
        kind="drafts",
        model="deepseek-v3",
        device="b200",
        profile="tensorrt-llm-1.2",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_b200,
        caveat=_DRAFTS_CAVEAT,
    ),
    ServingGroup(
        name="TensorRT-LLM 1.2 with drafts, DeepSeek-R1 NVFP4, B200",
        where=rows_of(_DEEPSEEK, "trtllm", "b200_sxm", "fp4", *_DRAFTS),
        kind="drafts",
        model="deepseek-v3.1-nvfp4",
        device="b200",
        profile="tensorrt-llm-1.2",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_nvfp4,
        caveat=_DRAFTS_CAVEAT,
    ),
    ServingGroup(
        name="TensorRT-LLM 1.0, Llama-3.1-8B, H100",
        where=rows_of("meta-llama/Llama-3.1-8B-Instruct", "trtllm", "h100_sxm", "", "1.0.0rc3"),
        kind="vendor",
        model="llama-3.1-8b",
        device="h100-sxm",
        profile="tensorrt-llm-1.0",
        framework=_TABLES,
        plan=tensor_parallel,
        settings=_generated,
        client=FIXED,
        caveat=f"limits as aiconfigurator's generator sets them; {VENDOR}",
    ),
    ServingGroup(
        name="TensorRT-LLM 1.0, Qwen3-235B-A22B FP8, H100",
        where=rows_of("Qwen/Qwen3-235B-A22B-FP8", "trtllm", "h100_sxm", "fp8", "1.0.0rc3"),
        kind="vendor",
        model="qwen3-235b-a22b",
        device="h100-sxm",
        profile="tensorrt-llm-1.0",
        framework=_TABLES,
        plan=_block_fp8,
        settings=_generated,
        client=FIXED,
        caveat=f"limits as aiconfigurator's generator sets them; {VENDOR}",
    ),
)
