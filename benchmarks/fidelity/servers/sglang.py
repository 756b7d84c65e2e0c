"""Measured servers that ran SGLang."""

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

_TABLES: Final = "sglang-0.5.14"
_DEEPSEEK: Final = "deepseek-ai/DeepSeek-R1"


def _fp8_cache(row: Row) -> str:
    return f"{mixture(row)}-kv.fp8"


def _qwen(row: Row) -> str:
    return f"{mixture(row)}-w.fp8_block-kv.fp8"


def _llama(row: Row) -> str:
    return f"tp{row['tp_size']}-w.fp8"


def _deepseek_h200(row: Row) -> Settings:
    return {
        "max_num_seqs": 512 if is_one_to_one(row) else 256,
        "stream_interval": 10,
        "max_num_batched_tokens": 32768,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.82,
    }


def _at_most(row: Row, sequences: int) -> Settings:
    """Return the limit of a launch file; rows that ran more at once were started by another, with an unknown limit."""
    return {"max_num_seqs": sequences} if number(row, "concurrency") <= sequences else {}


def _looks(row: Row) -> Settings:
    return {"scheduler_recv_interval": 30 if number(row, "concurrency") >= 16 else 10}


def _deepseek_b200(row: Row) -> Settings:
    """Return what its launch file says for eight devices, and for four."""
    is_wide = number(row, "tp_size") == 8
    return {
        **_at_most(row, 128 if is_wide else 32),
        **(_looks(row) if is_wide else {"scheduler_recv_interval": 10}),
        "stream_interval": 30,
        "max_num_batched_tokens": 32768 if is_wide else 8192,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.82 if is_wide else 0.95,
    }


def _deepseek_nvfp4(row: Row) -> Settings:
    return {
        **_looks(row),
        "stream_interval": 10,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 16384,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.85,
    }


def _qwen_b200(row: Row) -> Settings:
    return {
        **_at_most(row, 128),
        **_looks(row),
        "stream_interval": 30,
        "max_num_batched_tokens": 32768,
        "max_model_len": longest(row, 20),
        "gpu_memory_utilization": 0.82,
    }


SGLANG: Final = (
    ServingGroup(
        name="SGLang 0.5.9, DeepSeek-R1 FP8, H200",
        where=rows_of(_DEEPSEEK, "sglang", "h200_sxm", "fp8", "0.5.9"),
        model="deepseek-v3",
        device="h200-sxm",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=mixture,
        settings=_deepseek_h200,
    ),
    ServingGroup(
        name="SGLang 0.5.9, DeepSeek-R1 FP8, B200",
        where=rows_of(_DEEPSEEK, "sglang", "b200_sxm", "fp8", "0.5.9"),
        model="deepseek-v3",
        device="b200",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_b200,
    ),
    ServingGroup(
        name="SGLang 0.5.9, DeepSeek-R1 NVFP4, B200",
        where=rows_of(_DEEPSEEK, "sglang", "b200_sxm", "fp4", "0.5.9"),
        model="deepseek-v3.1-nvfp4",
        device="b200",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_nvfp4,
        caveat="nvidia/DeepSeek-R1-0528-FP4-V2 quantises the same layers as the bundled NVFP4 config of DeepSeek-V3.1",
    ),
    ServingGroup(
        name="SGLang 0.5.9, Qwen3.5-397B-A17B FP8, B200",
        where=rows_of("Qwen/Qwen3.5-397B-A17B", "sglang", "b200_sxm", "fp8", "0.5.9"),
        model="qwen3.5-397b-a17b",
        device="b200",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_qwen,
        settings=_qwen_b200,
    ),
    ServingGroup(
        name="SGLang 0.5, Qwen3-32B, H100",
        where=rows_of("Qwen/Qwen3-32B", "sglang", "h100_sxm", "", "0.5.1.post1", "0.5.8.post1"),
        kind="vendor",
        model="qwen3-32b",
        device="h100-sxm",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=tensor_parallel,
        settings=fixed_lengths,
        client=FIXED,
        caveat=VENDOR,
    ),
    ServingGroup(
        name="SGLang 0.5.6, Llama-3.1-8B FP8, H200",
        where=rows_of("meta-llama/Llama-3.1-8B-Instruct", "sglang", "h200_sxm", "fp8", "0.5.6.post2"),
        kind="vendor",
        model="llama-3.1-8b",
        device="h200-sxm",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_llama,
        settings=fixed_lengths,
        client=FIXED,
        caveat=VENDOR,
    ),
)
