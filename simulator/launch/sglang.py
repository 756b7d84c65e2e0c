"""`python -m sglang.launch_server`: flags of SGLang 0.5, read from its parser.

Its data parallelism is replicas on one node, or the attention ranks of one replica; limits are stated for all attention
ranks together.
"""

from collections.abc import Iterator
from typing import Final, Literal

from simulator.launch.remarks import (
    DTYPE_NAMES,
    checkpoint,
    is_cast_while_loading,
    kv_format_name,
    remarks,
    replicas_per_server,
)
from simulator.launch.shell import Flag, above_one, command
from simulator.serving import Serving, StartedPlan

PoolName = Literal["prefill", "decode"]

_NO_CHUNKS: Final = -1


def sglang_lines(serving: Serving, start: StartedPlan, pool: PoolName | None = None) -> Iterator[str]:
    """Yield the command of a plan, or of one of two pools: a prefill server spreads prompts over its ranks by room."""
    plan, stated, server = start.plan, serving.overrides, start.server
    is_apart = plan.attention_dp > 1 or start.router != "round_robin"
    replicas = 1 if is_apart else replicas_per_server(plan, serving.cluster.devices_per_host)
    devices = replicas * plan.replica_devices
    nodes = -(-devices // serving.cluster.devices_per_host)
    yield from remarks(serving, start, servers=plan.dp // replicas, devices=devices, is_text_only=False)
    if nodes > 1:
        yield f"# on each of {nodes} nodes, RANK from 0; HEAD is the address of the first"
    graphs = serving.profile_on_device(plan).graphs
    ranks, chunk = plan.attention_dp, server.max_num_batched_tokens * plan.attention_dp
    flags: list[Flag] = [
        ("--tp-size", above_one(plan.stage_ranks)),
        ("--pp-size", above_one(plan.pp)),
        ("--dp-size", above_one(replicas * ranks)),
        ("--enable-dp-attention", True if ranks > 1 else None),
        ("--load-balance-method", "round_robin" if replicas * ranks > 1 and pool != "prefill" else None),
        ("--ep-size", above_one(plan.ep)),
        ("--enable-eplb", True if plan.redundant_experts else None),
        ("--ep-num-redundant-experts", plan.redundant_experts or None),
        ("--moe-dense-tp-size", 1 if plan.mlp_dp == plan.stage_ranks > 1 else None),
        ("--nnodes", f"{nodes} --node-rank RANK --dist-init-addr HEAD:5000" if nodes > 1 else None),
        ("--quantization", "fp8" if is_cast_while_loading(serving, plan) else None),
        ("--dtype", DTYPE_NAMES.get(plan.weight_dtype or "")),
        ("--kv-cache-dtype", kv_format_name(serving, start, fp8="fp8_e4m3")),
        ("--mm-enable-dp-encoder", True if serving.overrides.mm_encoder_tp_mode == "data" else None),
        ("--context-length", server.max_model_len),
        ("--stream-interval", above_one(start.limits.stream_interval)),
        ("--max-running-requests", server.max_num_seqs * ranks),
        ("--chunked-prefill-size", chunk if server.enable_chunked_prefill else _NO_CHUNKS),
        ("--max-prefill-tokens", _max_prefill_tokens(start, chunk)),
        ("--mem-fraction-static", server.gpu_memory_utilization),
        ("--max-total-tokens", stated.num_gpu_blocks and stated.num_gpu_blocks * server.block_size),
        ("--page-size", server.block_size),
        ("--cuda-graph-max-bs", graphs.max_tokens or None),
        ("--disable-cuda-graph", True if graphs.decode == "none" else None),
        ("--disable-piecewise-cuda-graph", True if graphs.mixed == "none" else None),
        ("--scheduler-recv-interval", above_one(server.scheduler_recv_interval)),
        ("--disable-radix-cache", None if server.enable_prefix_caching else True),
        ("--disable-overlap-schedule", None if server.async_scheduling else True),
        ("--disaggregation-mode", pool),
        ("--disaggregation-transfer-backend", "nixl" if pool is not None else None),
    ]
    yield command(f"python -m sglang.launch_server --model-path {checkpoint(serving, plan)}", flags)


def _max_prefill_tokens(start: StartedPlan, chunk: int) -> int | None:
    """Return the prompt tokens after which a step takes no further one; None where SGLang's own are as many as a chunk.

    It counts them for each attention rank, the chunk for all together.
    """
    if not start.server.enable_chunked_prefill:
        return chunk
    tokens = start.server.max_num_batched_tokens
    return tokens if tokens > start.limits.max_prefill_tokens else None
