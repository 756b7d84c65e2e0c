"""The shell lines that start a plan on the engine whose rules it was simulated under.

Flags as vLLM, SGLang and TensorRT-LLM document them. What is neither stated by the user nor taken from the workload
is left to the engine, whose defaults the engine profile states. MODEL stands for the path or the hub name of the
checkpoint.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from simulator.engine_support import converted_checkpoint
from simulator.kv_format import kv_format
from simulator.model.linear import UNQUANTISED
from simulator.plan import Plan
from simulator.serving import Serving, Start

_DTYPE_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def launch_lines(serving: Serving, start: Start) -> tuple[str, ...]:
    """Return the commands of a plan of one pool, remarks as shell comments; none for an engine nobody can start."""
    match serving.profile.engine:
        case "vllm":
            return tuple(_vllm(serving, start, ""))
        case "sglang":
            return tuple(_sglang(serving, start))
        case "tensorrt-llm":
            return tuple(_tensorrt_llm(serving, start))
        case _:
            return ()


def pool_launch_lines(serving: Serving, prefill: Start, decode: Start) -> tuple[str, ...]:
    """Return the commands of both pools, joined by vLLM's KV connector over NIXL; none for other engines."""
    if serving.profile.engine != "vllm":
        return ()
    connector = json.dumps({"kv_connector": "NixlConnector", "kv_role": "kv_both"})
    flags = f" --kv-transfer-config '{connector}'"
    return (
        "# each server: CUDA_VISIBLE_DEVICES, --port and VLLM_NIXL_SIDE_CHANNEL_PORT of its own",
        "# prefill pool; a proxy in front sends each request here first",
        *_vllm(serving, prefill, flags),
        "# decode pool",
        *_vllm(serving, decode, flags),
    )


def _vllm(serving: Serving, start: Start, more: str) -> Iterator[str]:
    plan, stated = start.plan, serving.overrides
    is_v0, chunked = serving.profile.policy == "vllm-v0", stated.enable_chunked_prefill
    # Data parallelism inside a server shares the experts, and V0 engines have none.
    are_apart = serving.model.has_experts or is_v0
    replicas = 1 if are_apart else _replicas_per_node(plan, serving.cluster.devices_per_node)
    devices = replicas * plan.replica_devices
    nodes = -(-devices // serving.cluster.devices_per_node)
    yield from _remarks(serving, plan, servers=plan.dp // replicas, devices=devices)
    if nodes > 1:
        yield f"# each server spans {nodes} nodes: join them in one Ray cluster first"
    spread = nodes > 1 and plan.attention_dp > 1  # attention ranks on several nodes, each rank on one of them or more
    ranks_per_node = serving.cluster.devices_per_node // (plan.pp * plan.tp)
    flags: list[tuple[str, object]] = [
        ("--tensor-parallel-size", _above_one(plan.tp)),
        ("--pipeline-parallel-size", _above_one(plan.pp)),
        ("--data-parallel-size", _above_one(replicas * plan.attention_dp)),
        ("--enable-expert-parallel", True if plan.ep > 1 else None),
        ("--data-parallel-backend", "ray" if spread else None),
        ("--data-parallel-size-local", ranks_per_node or None if spread else None),
        ("--distributed-executor-backend", "ray" if not ranks_per_node else None),
        ("--quantization", "fp8" if _is_cast_while_loading(serving, plan) else None),
        ("--dtype", _DTYPE_NAMES.get(plan.weight_dtype or "")),
        ("--kv-cache-dtype", _kv_cache_dtype(serving, plan, fp8="fp8")),
        ("--max-model-len", start.limits.max_model_len),
        ("--max-num-seqs", plan.max_num_seqs or stated.max_num_seqs),
        ("--max-num-batched-tokens", _batched_tokens(serving, start)),
        ("--gpu-memory-utilization", stated.gpu_memory_utilization),
        ("--num-gpu-blocks-override", stated.num_gpu_blocks),
        ("--block-size", stated.block_size),
    ]
    if is_v0:  # no negated flags, and nothing is scheduled ahead
        flags.append(("--enable-prefix-caching", stated.enable_prefix_caching or None))
        flags.append(("--enable-chunked-prefill", None if chunked is None else str(chunked)))
    else:
        flags.append(("--enable-prefix-caching", stated.enable_prefix_caching))
        flags.append(("--enable-chunked-prefill", chunked))
        flags.append(("--async-scheduling", stated.async_scheduling))
    strategy = "VLLM_RAY_DP_PACK_STRATEGY=span " if spread and not ranks_per_node else ""
    line = _command(f"{strategy}vllm serve MODEL", flags)
    if start.limits.num_speculative_tokens:
        drafts = {"method": "ngram"} if stated.draft_step_s is None else {"model": "DRAFT_MODEL"}
        config = json.dumps(drafts | {"num_speculative_tokens": start.limits.num_speculative_tokens})
        line += f" --speculative-config '{config}'"
    yield line + more


def _sglang(serving: Serving, start: Start) -> Iterator[str]:
    plan, stated = start.plan, serving.overrides
    # Its data parallelism is replicas on one node, or the attention ranks of one replica.
    replicas = 1 if plan.attention_dp > 1 else _replicas_per_node(plan, serving.cluster.devices_per_node)
    devices = replicas * plan.replica_devices
    nodes = -(-devices // serving.cluster.devices_per_node)
    yield from _remarks(serving, plan, servers=plan.dp // replicas, devices=devices)
    if nodes > 1:
        yield f"# on each of {nodes} nodes, RANK from 0; HEAD is the address of the first"
    # Limits are stated for all attention ranks together.
    seqs = (plan.max_num_seqs or stated.max_num_seqs or 0) * plan.attention_dp
    tokens = (plan.max_num_batched_tokens or stated.max_num_batched_tokens or 0) * plan.attention_dp
    flags = [
        ("--tp-size", _above_one(plan.stage_ranks)),
        ("--pp-size", _above_one(plan.pp)),
        ("--dp-size", _above_one(replicas * plan.attention_dp)),
        ("--enable-dp-attention", True if plan.attention_dp > 1 else None),
        ("--ep-size", _above_one(plan.ep)),
        ("--nnodes", f"{nodes} --node-rank RANK --dist-init-addr HEAD:5000" if nodes > 1 else None),
        ("--quantization", "fp8" if _is_cast_while_loading(serving, plan) else None),
        ("--dtype", _DTYPE_NAMES.get(plan.weight_dtype or "")),
        ("--kv-cache-dtype", _kv_cache_dtype(serving, plan, fp8="fp8_e4m3")),
        ("--context-length", start.limits.max_model_len),
        ("--max-running-requests", seqs or None),
        ("--chunked-prefill-size", tokens or None),
        ("--mem-fraction-static", stated.gpu_memory_utilization),
        ("--max-total-tokens", stated.num_gpu_blocks and stated.num_gpu_blocks * start.limits.block_size),
        ("--page-size", stated.block_size),
        ("--disable-radix-cache", True if stated.enable_prefix_caching is False else None),
        ("--disable-overlap-schedule", True if stated.async_scheduling is False else None),
    ]
    yield _command("python -m sglang.launch_server --model-path MODEL", flags)


def _tensorrt_llm(serving: Serving, start: Start) -> Iterator[str]:
    plan, stated = start.plan, serving.overrides
    nodes = -(-plan.replica_devices // serving.cluster.devices_per_node)
    yield from _remarks(serving, plan, servers=plan.dp, devices=plan.replica_devices)
    if nodes > 1:
        yield f"# each server spans {nodes} nodes, under Slurm; options.yaml on a disk all of them see"
    if _is_cast_while_loading(serving, plan):
        yield "# MODEL is a checkpoint converted to fp8"
    if stated.gpu_memory_utilization is not None:
        yield "# its memory flag is a share of what the weights leave free, not of all memory: left out"
    options = _tensorrt_llm_options(serving, start)
    if "speculative_config" in options and stated.async_scheduling is not False:
        yield "# its drafts need the overlap scheduler off: simulate with --no-async-scheduling"
    if options:
        yield f"echo '{json.dumps(options)}' > options.yaml"
    flags = [
        ("--tp_size", _above_one(plan.stage_ranks)),
        ("--pp_size", _above_one(plan.pp)),
        ("--ep_size", _above_one(plan.ep)),
        ("--max_seq_len", start.limits.max_model_len),
        ("--max_batch_size", plan.max_num_seqs or stated.max_num_seqs),
        ("--max_num_tokens", _batched_tokens(serving, start)),
        ("--extra_llm_api_options", "options.yaml" if options else None),
    ]
    across = f"srun --nodes {nodes} --ntasks {plan.replica_devices} --mpi=pmix trtllm-llmapi-launch "
    yield _command((across if nodes > 1 else "") + "trtllm-serve MODEL --backend pytorch", flags)


def _tensorrt_llm_options(serving: Serving, start: Start) -> dict[str, object]:
    """Return what has no flag: fields of its LLM arguments, by name."""
    plan, stated = start.plan, serving.overrides
    cache = {
        "dtype": "fp8" if plan.kv_dtype == "fp8" else None,
        "enable_block_reuse": stated.enable_prefix_caching,
        "tokens_per_block": stated.block_size,
        "max_tokens": stated.num_gpu_blocks and stated.num_gpu_blocks * start.limits.block_size,
    }
    cache = {name: value for name, value in cache.items() if value is not None}
    drafts: dict[str, object] | None = None
    if start.limits.num_speculative_tokens:
        drafts = {"decoding_type": "NGram", "max_draft_len": start.limits.num_speculative_tokens}
        if stated.draft_step_s is not None:
            drafts |= {"decoding_type": "DraftTarget", "speculative_model_dir": "DRAFT_MODEL"}
    options = {
        "dtype": _DTYPE_NAMES.get(plan.weight_dtype or ""),
        "kv_cache_config": cache or None,
        "enable_attention_dp": True if plan.attention_dp > 1 else None,
        "enable_chunked_prefill": stated.enable_chunked_prefill,
        "disable_overlap_scheduler": True if drafts or stated.async_scheduling is False else None,
        "speculative_config": drafts,
    }
    return {name: value for name, value in options.items() if value is not None}


def _remarks(serving: Serving, plan: Plan, *, servers: int, devices: int) -> Iterator[str]:
    """Say what to do before the command, and how often to run it."""
    if plan.clock_mhz is not None:
        yield f"nvidia-smi --lock-gpu-clocks={plan.clock_mhz:g},{plan.clock_mhz:g}  # as root, for these devices (--id)"
    converted = converted_checkpoint(serving.model, plan)
    if converted is not None:
        yield f"# MODEL is a checkpoint converted to {converted}"
    for part in serving.model.left_out:
        yield f"# the {part} is not in the simulated memory; vLLM leaves it out with --language-model-only"
    if servers > 1:
        yield f"# {servers} servers of {devices} devices each (CUDA_VISIBLE_DEVICES, --port), behind a load balancer"


def _batched_tokens(serving: Serving, start: Start) -> int | None:
    """Tokens per step, where they are stated or whole prompts need more than the engine's own."""
    stated = start.plan.max_num_batched_tokens or serving.overrides.max_num_batched_tokens
    own = serving.profile.batch_limits(serving.cluster.device, start.plan).max_num_batched_tokens
    tokens = start.limits.max_num_batched_tokens
    return tokens if stated or tokens > own else None


def _replicas_per_node(plan: Plan, devices_per_node: int) -> int:
    """Replicas one server can hold: a divisor of their number, on the devices of one node."""
    most = max(1, devices_per_node // plan.replica_devices)
    return max(count for count in range(1, min(most, plan.dp) + 1) if plan.dp % count == 0)


def _is_cast_while_loading(serving: Serving, plan: Plan) -> bool:
    return plan.weight_dtype == "fp8" and serving.model.quantisation in {None, *UNQUANTISED}


def _kv_cache_dtype(serving: Serving, plan: Plan, *, fp8: str) -> str | None:
    """Name the KV cache's format where the engine's own choice would be another."""
    if plan.kv_dtype == "fp8":
        return fp8
    own = kv_format(serving.model, replace(plan, kv_dtype=None), serving.profile)
    return _DTYPE_NAMES.get(plan.kv_dtype or "") if plan.kv_dtype != own.dtype else None


def _above_one(degree: int) -> int | None:
    return degree if degree > 1 else None


def _command(program: str, flags: Sequence[tuple[str, object]]) -> str:
    return " ".join([program, *(_flag(name, value) for name, value in flags if value is not None)])


def _flag(name: str, value: object) -> str:
    """Write one flag; a boolean is the flag itself or its negation."""
    if isinstance(value, bool):
        return name if value else name.replace("--", "--no-", 1)
    return f"{name} {value}"
