"""`trtllm-serve` with its PyTorch backend: flags and fields of the LLM arguments of TensorRT-LLM 1.0."""

import json
from collections.abc import Iterator

from simulator.feasible.prompt_waiting import holds_batches, prompt_waiting
from simulator.launch.remarks import (
    CHECKPOINT,
    DTYPE_NAMES,
    checkpoint,
    is_cast_while_loading,
    kv_format_name,
    remarks,
)
from simulator.launch.shell import Flag, above_one, command
from simulator.plan.plan import Plan
from simulator.serving import Serving, StartedPlan


def tensorrt_llm_lines(serving: Serving, start: StartedPlan) -> Iterator[str]:
    """Yield the options file and the command of a plan; replicas are servers of their own."""
    plan, server = start.plan, start.server
    nodes = -(-plan.replica_devices // serving.cluster.devices_per_host)
    yield from remarks(serving, start, servers=plan.dp, devices=plan.replica_devices, is_text_only=False)
    if nodes > 1:
        yield f"# each server spans {nodes} nodes, under Slurm; options.yaml on a disk all of them see"
    if is_cast_while_loading(serving, plan):
        yield f"# {CHECKPOINT} is a checkpoint converted to fp8"
    yield f"echo '{json.dumps(_options(serving, start))}' > options.yaml"
    flags: list[Flag] = [
        ("--tp_size", above_one(plan.stage_ranks)),
        ("--pp_size", above_one(plan.pp)),
        ("--ep_size", above_one(plan.ep)),
        ("--max_seq_len", server.max_model_len),
        ("--max_batch_size", server.max_num_seqs),
        ("--max_num_tokens", server.max_num_batched_tokens),
        ("--extra_llm_api_options", "options.yaml"),
    ]
    model = CHECKPOINT if is_cast_while_loading(serving, plan) else checkpoint(serving, plan)
    across = f"srun --nodes {nodes} --ntasks {plan.replica_devices} --mpi=pmix trtllm-llmapi-launch "
    yield command((across if nodes > 1 else "") + f"trtllm-serve {model} --backend pytorch", flags)


def _waiting(serving: Serving, plan: Plan) -> dict[str, object]:
    """Return for how many steps prompts are held back, where they are."""
    waiting = prompt_waiting(serving, is_chunked=False)
    if plan.attention_dp > 1:
        if waiting.attention_dp_timeout_iters == 0:
            return {}
        balance = {
            "enable_balance": True,
            "timeout_iters": waiting.attention_dp_timeout_iters,
            "batching_wait_iters": waiting.attention_dp_batching_wait_iters,
        }
        return {"attention_dp_config": balance}
    if not holds_batches(waiting):
        return {}
    return {
        "batch_wait_timeout_iters": waiting.batch_wait_timeout_iters,
        "batch_wait_max_tokens_ratio": waiting.batch_wait_max_tokens_ratio,
    }


def _options(serving: Serving, start: StartedPlan) -> dict[str, object]:
    """Return what has no flag, by name."""
    plan, stated, server = start.plan, serving.overrides, start.server
    profile = serving.profile_on_device(plan)
    sizes = profile.graphs.capture_sizes(server.max_num_seqs) if profile.graphs.decode != "none" else []
    policy = "GUARANTEED_NO_EVICT" if start.limits.reserves_output else None
    cache = {
        "dtype": kv_format_name(serving, start, fp8="fp8"),
        "enable_block_reuse": server.enable_prefix_caching,
        "tokens_per_block": server.block_size,
        "free_gpu_memory_fraction": server.gpu_memory_utilization,
        "max_tokens": stated.num_gpu_blocks and stated.num_gpu_blocks * server.block_size,
    }
    drafts: dict[str, object] | None = None
    if start.limits.num_speculative_tokens:
        drafts = {"decoding_type": "NGram", "max_draft_len": start.limits.num_speculative_tokens}
        if serving.draft_method == "draft_model":
            drafts |= {"decoding_type": "DraftTarget", "speculative_model_dir": "DRAFT_MODEL"}
        elif serving.draft_method == "mtp":
            count = start.limits.num_speculative_tokens
            drafts = {"decoding_type": "MTP", "num_nextn_predict_layers": count}
    options = {
        "dtype": DTYPE_NAMES.get(plan.weight_dtype or ""),
        "kv_cache_config": {name: value for name, value in cache.items() if value is not None},
        "enable_attention_dp": True if plan.attention_dp > 1 else None,
        "enable_chunked_prefill": server.enable_chunked_prefill,
        "cuda_graph_config": {"enable_padding": True, "batch_sizes": sizes} if sizes else None,
        "scheduler_config": policy and {"capacity_scheduler_policy": policy},
        "disable_overlap_scheduler": not server.async_scheduling,
        "speculative_config": drafts,
        **_waiting(serving, plan),
        "stream_interval": above_one(start.limits.stream_interval),
    }
    # Left out, graphs would be its own: null says that there are none.
    return {name: value for name, value in options.items() if value is not None or name == "cuda_graph_config"}
