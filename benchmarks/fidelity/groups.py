"""The measured groups of `serving_points.csv`: which rows, and what server and client they are replayed with.

A server setting that its launch file states is taken from there; one that nothing records is the engine profile's
default. Whatever stands in for something else (another engine's scheduler, another version's kernels) is said in
``caveat`` and printed with the errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.model.expert_layout import ExpertKernel
from simulator.plan.plan import Plan, parse_plan

Row = Mapping[str, str]
Settings = Mapping[str, int | float | bool]


def _tensor_parallel(row: Row) -> str:
    return f"tp{row['tp_size']}"


def _fp8_checkpoint(row: Row) -> str:
    return f"tp{row['tp_size']}-w.fp8-kv.fp8"


def _expert_parallel_at_8(row: Row) -> str:
    return "tp8-ep8" if row["tp_size"] == "8" else f"tp{row['tp_size']}"


def _launch_file(row: Row) -> Settings:
    """Return what the public benchmark's launch files of dense and gpt-oss servers say."""
    return {
        "max_num_seqs": int(row["concurrency"]),
        "max_num_batched_tokens": 8192,
        "max_model_len": int(row["isl"]) + int(row["osl"]) + 200,
        "gpu_memory_utilization": 0.9,
    }


def _minimax(row: Row) -> Settings:
    return {"max_model_len": int(row["isl"]) + int(row["osl"]) + 200, "gpu_memory_utilization": 0.95}


def _deepseek(row: Row) -> Settings:
    return {
        "max_num_seqs": 512 if row["isl"] == row["osl"] == "1024" else 256,
        "max_num_batched_tokens": 32768,
        "max_model_len": int(row["isl"]) + int(row["osl"]) + 200,
        "gpu_memory_utilization": 0.82,
    }


def _fixed_lengths(row: Row) -> Settings:
    return {"max_model_len": int(row["isl"]) + int(row["osl"]) + 200}


def _generated(row: Row) -> Settings:
    """Return what aiconfigurator's generator sets for TensorRT-LLM: a slot per request, a prompt and 1,500 tokens."""
    isl, concurrency = int(row["isl"]), int(row["concurrency"])
    return {**_fixed_lengths(row), "max_num_seqs": concurrency, "max_num_batched_tokens": concurrency + isl + 1500}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGroup:
    """Rows of one model, device and engine version, and how they are replayed."""

    name: str
    where: Mapping[str, tuple[str, ...]]  # column: its values
    model: str
    device: str
    profile: str
    framework: str  # whose kernel tables are fitted
    mxfp4_kernel: ExpertKernel | None = None  # where the server ran another than its version's default
    plan: Callable[[Row], str] = _tensor_parallel
    settings: Callable[[Row], Settings] = _launch_file
    client: str = ""  # appended to closed:isl=,osl=,concurrency=
    caveat: str = ""
    is_suspect: bool = False  # reported, not counted among the trusted groups

    def holds(self, row: Row) -> bool:
        """Whether ``row`` belongs to this group."""
        return all(row[column] in values for column, values in self.where.items())

    def engine_profile(self) -> EngineProfile:
        """Return the profile the rows are replayed with."""
        profile = load_profile(self.profile)
        if self.mxfp4_kernel is None:
            return profile
        kernels = profile.mxfp4_experts.model_copy(update={"default": self.mxfp4_kernel, "devices": {}})
        return profile.model_copy(update={"mxfp4_experts": kernels})

    def plan_of(self, row: Row) -> Plan:
        """Return the plan the row's server ran."""
        return parse_plan(self.plan(row))


def _server(
    model_path: str, backend: str, system: str, precision: str, *versions: str
) -> Mapping[str, tuple[str, ...]]:
    """Return what tells the rows of one server from all others; no ``versions`` where none is recorded."""
    one = {"model_path": model_path, "backend": backend, "system": system, "precision": precision}
    return {**{column: (value,) for column, value in one.items()}, "backend_version": versions or ("",)}


_FIXED: Final = ",ratio=1"
_VENDOR: Final = "vendor sweep: lengths are fixed; prompts per slot, warm-up and server limits are not recorded"

GROUPS: Final = (
    ServingGroup(
        name="vLLM, Llama-3.1-70B FP8, H200",
        where=_server("meta-llama/Llama-3.1-70B", "vllm", "h200_sxm", "fp8"),
        model="llama-3.1-70b",
        device="h200-sxm",
        profile="vllm-0.11",
        framework="vllm-0.24.0",
        plan=_fp8_checkpoint,
    ),
    ServingGroup(
        name="vLLM 2025, gpt-oss-120b MXFP4, H100",
        where=_server("openai/gpt-oss-120b", "vllm", "h100_sxm", "fp4", "", "0.11.2"),
        model="gpt-oss-120b",
        device="h100-sxm",
        profile="vllm-0.11",
        framework="vllm-0.24.0",
        mxfp4_kernel="triton",  # 0.11.2 brings triton_kernels, 0.11.0 does not
        caveat=(
            "nine of eleven rows ran 512 at once under an unrecorded limit; the version of the other two is not "
            "recorded: with profile vllm-0.18 TTFT misses by 6 %, TPOT by 12 %"
        ),
    ),
    ServingGroup(
        name="vLLM 0.18, gpt-oss-120b MXFP4, H100",
        where=_server("openai/gpt-oss-120b", "vllm", "h100_sxm", "fp4", "0.18.0"),
        model="gpt-oss-120b",
        device="h100-sxm",
        profile="vllm-0.18",
        framework="vllm-0.24.0",
        mxfp4_kernel="marlin",  # its launch file sets VLLM_MXFP4_USE_MARLIN
        caveat=(
            "the server runs MXFP4 experts through Marlin; the tables hold the Triton kernel: from a full tile per "
            "expert on, Marlin's time is borrowed from another model's 4-bit experts, below it is analytic"
        ),
    ),
    ServingGroup(
        name="vLLM 0.16, MiniMax-M2.5 FP8, H200, tp4",
        where=_server("MiniMaxAI/MiniMax-M2.5", "vllm", "h200_sxm", "fp8", "0.16.0"),
        model="minimax-m2.5",
        device="h200-sxm",
        profile="vllm-0.18",
        framework="vllm-0.24.0",
        settings=_minimax,
        caveat=(
            "decode takes 1 to 4 ms more per step than tables say, as it would with graphs in pieces (profile "
            "vllm-0.10: TPOT misses by 10 %), which nothing records"
        ),
    ),
    ServingGroup(
        name="vLLM 0.18, MiniMax-M2.5 FP8, H200, tp8",
        where=_server("MiniMaxAI/MiniMax-M2.5", "vllm", "h200_sxm", "fp8", "0.18.0"),
        model="minimax-m2.5",
        device="h200-sxm",
        profile="vllm-0.18",
        framework="vllm-0.24.0",
        plan=_expert_parallel_at_8,
        settings=_minimax,
        caveat="recorded as tp8; block-FP8 experts cannot be split over 8 ranks, so it is replayed as tp8-ep8",
    ),
    ServingGroup(
        name="SGLang 0.5.9, DeepSeek-R1 FP8, H200",
        where=_server("deepseek-ai/DeepSeek-R1", "sglang", "h200_sxm", "fp8", "0.5.9"),
        model="deepseek-v3",
        device="h200-sxm",
        profile="sglang-0.5",
        framework="sglang-0.5.14",
        settings=_deepseek,
    ),
    ServingGroup(
        name="SGLang 0.5, Qwen3-32B, H100",
        where=_server("Qwen/Qwen3-32B", "sglang", "h100_sxm", "", "0.5.1.post1", "0.5.8.post1"),
        model="qwen3-32b",
        device="h100-sxm",
        profile="sglang-0.5",
        framework="sglang-0.5.14",
        settings=_fixed_lengths,
        client=_FIXED,
        caveat=_VENDOR,
    ),
    ServingGroup(
        name="TensorRT-LLM 1.0, Llama-3.1-8B, H100",
        where=_server("meta-llama/Llama-3.1-8B-Instruct", "trtllm", "h100_sxm", "", "1.0.0rc3"),
        model="llama-3.1-8b",
        device="h100-sxm",
        profile="tensorrt-llm-1.0",
        framework="trtllm-1.3.0rc20",
        settings=_generated,
        client=_FIXED,
        caveat=(
            "limits as aiconfigurator's generator sets them for TensorRT-LLM; up to 32 at once, TTFT grows with the "
            "answer's length as if one request always waited for a slot, and at 128 the server's frontend is behind; "
            "vendor sweep: lengths are fixed; prompts per slot and warm-up are not recorded"
        ),
    ),
    ServingGroup(
        name="vLLM 0.12, Llama-3.1-8B FP8, H200",
        where=_server("nvidia/Llama-3.1-8B-Instruct-FP8", "vllm", "h200_sxm", "fp8", "0.12.0"),
        model="llama-3.1-8b",
        device="h200-sxm",
        profile="vllm-0.11",
        framework="vllm-0.24.0",
        plan=_fp8_checkpoint,
        settings=_fixed_lengths,
        client=_FIXED,
        caveat=f"suspect: looks like prefix-cache hits or a lower real concurrency; {_VENDOR}",
        is_suspect=True,
    ),
)
