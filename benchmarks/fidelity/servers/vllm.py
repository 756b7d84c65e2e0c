"""Measured servers that ran vLLM."""

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
    number,
    rows_of,
    tensor_parallel,
)

_TABLES: Final = "vllm-0.24.0"
_LLAMA: Final = "meta-llama/Llama-3.1-70B"
_GPT_OSS: Final = "openai/gpt-oss-120b"
_MINIMAX: Final = "MiniMaxAI/MiniMax-M2.5"
_MOST_CAPTURED: Final = 2048  # max-cudagraph-capture-size, cuda-graph-sizes before


def _fp8(row: Row) -> str:
    return f"tp{row['tp_size']}-w.fp8-kv.fp8"


def _nvfp4(row: Row) -> str:
    return f"tp{row['tp_size']}-w.nvfp4-kv.fp8"


def _weights_fp8(row: Row) -> str:
    return f"tp{row['tp_size']}-w.fp8"


def _llama_hopper(row: Row) -> Settings:
    return {
        "max_num_seqs": number(row, "concurrency"),
        "max_num_batched_tokens": 8192,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.9,
    }


def _llama_blackwell(row: Row) -> Settings:
    return {
        "max_num_seqs": 512,
        "max_num_batched_tokens": 8192,
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.9,
        "cudagraph_mode": "FULL_DECODE_ONLY",
    }


def _gpt_oss(row: Row) -> Settings:
    return {
        "max_num_seqs": number(row, "concurrency"),
        "max_num_batched_tokens": 8192,
        "max_model_len": 10240,
        "gpu_memory_utilization": 0.9,
        "max_cudagraph_capture_size": _MOST_CAPTURED,
    }


def _minimax_h200(row: Row) -> Settings:
    return {"max_model_len": longest(row), "gpu_memory_utilization": 0.95}


def _minimax_h100(row: Row) -> Settings:
    return {
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.9,
        "max_num_seqs": 256,
        "cudagraph_mode": "PIECEWISE",
    }


def _minimax_nvfp4(row: Row) -> Settings:
    return {
        "max_model_len": longest(row),
        "gpu_memory_utilization": 0.9,
        "max_num_batched_tokens": 2 * number(row, "isl"),
        "max_cudagraph_capture_size": _MOST_CAPTURED,
        "stream_interval": 20,
    }


def _minimax_b200(row: Row) -> Settings:
    return {**_minimax_nvfp4(row), "block_size": 32}


def _always_expert_parallel(row: Row) -> str:
    """Its launch file of late March 2026 asks for expert parallelism whenever the number of its ranks is stated."""
    return f"tp{row['tp_size']}-ep{row['tp_size']}"


def _minimax_layout(row: Row) -> str:
    """Its launch files have no attention data parallelism: rows that name it count the ranks of TP + EP twice."""
    tp = number(row, "tp_size")
    return f"tp{tp}-ep{tp}" if number(row, "moe_ep_size") > 1 else f"tp{tp}"


def _minimax_b200_layout(row: Row) -> str:
    return f"{_minimax_layout(row)}-kv.fp8"


def _minimax_nvfp4_layout(row: Row) -> str:
    """Two devices from 256 requests of 1,024 + 1,024 tokens on run attention data parallel, as its sweep says."""
    tp = number(row, "tp_size")
    if number(row, "attention_dp_size") > 1 and tp == 2 and is_one_to_one(row) and number(row, "concurrency") >= 256:
        return f"attn.dp{tp}-moe.ep{tp}-kv.fp8"
    return f"{_minimax_layout(row)}-kv.fp8"


VLLM: Final = (
    ServingGroup(
        name="vLLM 2025, Llama-3.1-70B FP8, H200",
        where=rows_of(_LLAMA, "vllm", "h200_sxm", "fp8"),
        model="llama-3.1-70b",
        device="h200-sxm",
        profile="vllm-0.11",
        framework=_TABLES,
        plan=_fp8,
        settings=_llama_hopper,
    ),
    ServingGroup(
        name="vLLM 2025, Llama-3.1-70B FP8, B200",
        where=rows_of(_LLAMA, "vllm", "b200_sxm", "fp8"),
        model="llama-3.1-70b",
        device="b200",
        profile="vllm-0.11",
        framework=_TABLES,
        plan=_fp8,
        settings=_llama_blackwell,
        caveat="steps with a part of a prompt run outside graphs: the host's launches decide TTFT",
    ),
    ServingGroup(
        name="vLLM 2025, Llama-3.1-70B NVFP4, B200",
        where=rows_of(_LLAMA, "vllm", "b200_sxm", "fp4"),
        model="llama-3.1-70b",
        device="b200",
        profile="vllm-0.11",
        framework=_TABLES,
        plan=_nvfp4,
        settings=_llama_blackwell,
        caveat="steps with a part of a prompt run outside graphs: the host's launches decide TTFT",
    ),
    ServingGroup(
        name="vLLM 2025, gpt-oss-120b MXFP4, H100",
        where=rows_of(_GPT_OSS, "vllm", "h100_sxm", "fp4", "", "0.11.2"),
        model="gpt-oss-120b",
        device="h100-sxm",
        profile="vllm-0.11",
        framework=_TABLES,
        plan=tensor_parallel,
        settings=_gpt_oss,
        # 0.11.2 brings triton_kernels, 0.11.0 does not
        changes={"mxfp4_experts.default": "triton", "mxfp4_experts.devices": {}},
        caveat="nine of eleven rows ran 512 at once; the version of the other two is not recorded",
    ),
    ServingGroup(
        name="vLLM 0.18, gpt-oss-120b MXFP4, H100",
        where=rows_of(_GPT_OSS, "vllm", "h100_sxm", "fp4", "0.18.0"),
        model="gpt-oss-120b",
        device="h100-sxm",
        profile="vllm-0.18",
        framework=_TABLES,
        plan=tensor_parallel,
        settings=_gpt_oss,
        # its launch file sets VLLM_MXFP4_USE_MARLIN
        changes={"mxfp4_experts.default": "marlin", "mxfp4_experts.devices": {}},
        caveat=(
            "the server runs MXFP4 experts through Marlin; the tables hold the Triton kernel: from a full tile per "
            "expert on, Marlin's time is borrowed from another model's 4-bit experts, below it is analytic"
        ),
    ),
    ServingGroup(
        name="vLLM 0.16, MiniMax-M2.5 FP8, H200, tp4",
        where=rows_of(_MINIMAX, "vllm", "h200_sxm", "fp8", "0.16.0"),
        model="minimax-m2.5",
        device="h200-sxm",
        profile="vllm-0.15",
        framework=_TABLES,
        plan=tensor_parallel,
        settings=_minimax_h200,
        caveat=(
            "decode takes 1 to 4 ms more per step than prices say: vLLM leaves DeepGEMM for block-FP8 experts 384 "
            "wide, and up to 0.16 its untuned Triton kernel takes tiles of 64 rows at any batch, where the tables are "
            "of a newer one"
        ),
    ),
    ServingGroup(
        name="vLLM 0.18, MiniMax-M2.5 FP8, H200, tp8",
        where=rows_of(_MINIMAX, "vllm", "h200_sxm", "fp8", "0.18.0"),
        model="minimax-m2.5",
        device="h200-sxm",
        profile="vllm-0.18",
        framework=_TABLES,
        plan=_always_expert_parallel,
        settings=_minimax_h200,
    ),
    ServingGroup(
        name="vLLM 0.18, MiniMax-M2.5 FP8, H100",
        where=rows_of(_MINIMAX, "vllm", "h100_sxm", "fp8", "0.18.0"),
        model="minimax-m2.5",
        device="h100-sxm",
        profile="vllm-0.18",
        framework=_TABLES,
        plan=_minimax_layout,
        settings=_minimax_h100,
    ),
    ServingGroup(
        name="vLLM 0.19, MiniMax-M2.5 FP8, B200",
        where=rows_of(_MINIMAX, "vllm", "b200_sxm", "fp8", "0.19.0"),
        model="minimax-m2.5",
        device="b200",
        profile="vllm-0.19",
        framework=_TABLES,
        plan=_minimax_b200_layout,
        settings=_minimax_b200,
    ),
    ServingGroup(
        name="vLLM 0.19, MiniMax-M2.5 NVFP4, B200",
        where=rows_of(_MINIMAX, "vllm", "b200_sxm", "fp4", "0.19.0"),
        model="minimax-m2.5-nvfp4",
        device="b200",
        profile="vllm-0.19",
        framework=_TABLES,
        plan=_minimax_nvfp4_layout,
        settings=_minimax_nvfp4,
    ),
    ServingGroup(
        name="vLLM 0.12, Qwen3-32B, H100",
        where=rows_of("Qwen/Qwen3-32B", "vllm", "h100_sxm", "", "0.12.0"),
        kind="vendor",
        model="qwen3-32b",
        device="h100-sxm",
        profile="vllm-0.12",
        framework=_TABLES,
        plan=tensor_parallel,
        settings=fixed_lengths,
        client=FIXED,
        caveat=VENDOR,
    ),
    ServingGroup(
        name="vLLM 0.12, Qwen3-32B FP8, H100",
        where=rows_of("Qwen/Qwen3-32B", "vllm", "h100_sxm", "fp8", "0.12.0"),
        kind="vendor",
        model="qwen3-32b",
        device="h100-sxm",
        profile="vllm-0.12",
        framework=_TABLES,
        plan=_weights_fp8,
        settings=fixed_lengths,
        client=FIXED,
        caveat=VENDOR,
    ),
    ServingGroup(
        name="vLLM 0.12, Llama-3.1-8B FP8, H200",
        where=rows_of("nvidia/Llama-3.1-8B-Instruct-FP8", "vllm", "h200_sxm", "fp8", "0.12.0"),
        kind="suspect",
        model="llama-3.1-8b",
        device="h200-sxm",
        profile="vllm-0.12",
        framework=_TABLES,
        plan=_fp8,
        settings=fixed_lengths,
        client=FIXED,
        caveat=f"suspect: looks like prefix-cache hits or a lower real concurrency; {VENDOR}",
    ),
)
