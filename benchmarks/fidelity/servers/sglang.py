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
# The public benchmark ran two servers of each of these models on B200, one of them with EAGLE drafts.
# Their search spaces (.github/configs/nvidia-master.yaml of 25 March 2026: qwen3.5-fp8-b200-sglang[-mtp] and
# dsr1-fp8-b200-sglang[-mtp]) tell which ran a setting. Both ran DeepSeek-R1 on eight devices, and no row says which it
# is of: all of them stand apart.
_DRAFTS_CAVEAT: Final = (
    "by its public search space this is the server with EAGLE drafts (3 tokens for DeepSeek-R1, 4 for Qwen3.5); their "
    "acceptance is not recorded, and it is replayed without"
)


def _is_drafted_qwen(row: Row) -> bool:
    """Four devices with sliced experts: the server without drafts spread them."""
    return (row["tp_size"], row["moe_ep_size"]) == ("4", "1")


def _is_drafted_deepseek(row: Row) -> bool:
    """Eight devices: most settings are those of the server with drafts alone, the others of both."""
    return row["tp_size"] == "8"


def _is_plain_qwen(row: Row) -> bool:
    return not _is_drafted_qwen(row)


def _is_plain_deepseek(row: Row) -> bool:
    return not _is_drafted_deepseek(row)


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
    """Return what its launch file says for four devices."""
    return {
        **_at_most(row, 32),
        "scheduler_recv_interval": 10,
        "stream_interval": 30,
        "max_num_batched_tokens": 8192,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.95,
    }


def _drafted_deepseek(row: Row) -> Settings:
    return {
        **_looks(row),
        "max_num_seqs": 512,
        "stream_interval": 30,
        "max_num_batched_tokens": 16384,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.82,
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


def _drafted_qwen(row: Row) -> Settings:
    return {**_qwen_b200(row), "max_num_seqs": number(row, "concurrency"), "gpu_memory_utilization": 0.8}


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
        only=_is_plain_deepseek,
        model="deepseek-v3",
        device="b200",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_deepseek_b200,
        caveat=(
            "its launch file runs FlashInfer's group-wise FP8 products, which no public table holds: prompts of 8,192 "
            "tokens take about twice what DeepGEMM's table says"
        ),
    ),
    ServingGroup(
        name="SGLang 0.5.9 with drafts, DeepSeek-R1 FP8, B200",
        where=rows_of(_DEEPSEEK, "sglang", "b200_sxm", "fp8", "0.5.9"),
        only=_is_drafted_deepseek,
        kind="sweep",
        model="deepseek-v3",
        device="b200",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_fp8_cache,
        settings=_drafted_deepseek,
        caveat=f"{_DRAFTS_CAVEAT}; some settings ran without drafts too, which rows do not tell",
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
        only=_is_plain_qwen,
        model="qwen3.5-397b-a17b",
        device="b200",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_qwen,
        settings=_qwen_b200,
        caveat=(
            "small kernels of its hybrid blocks are not priced (copies, separate gates), 2 ms of a step of 4 "
            "sequences; long prompts in block FP8 take longer than the tables say, as those of DeepSeek-R1 do"
        ),
    ),
    ServingGroup(
        name="SGLang 0.5.9 with drafts, Qwen3.5-397B-A17B FP8, B200",
        where=rows_of("Qwen/Qwen3.5-397B-A17B", "sglang", "b200_sxm", "fp8", "0.5.9"),
        only=_is_drafted_qwen,
        kind="sweep",
        model="qwen3.5-397b-a17b",
        device="b200",
        profile="sglang-0.5",
        framework=_TABLES,
        plan=_qwen,
        settings=_drafted_qwen,
        caveat=_DRAFTS_CAVEAT,
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
