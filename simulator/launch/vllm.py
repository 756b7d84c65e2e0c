"""`vllm serve`, by version: the flags of every bundled version from 0.6 (V0) to 0.33 are read from its own parser.

| flag | versions |
| --- | --- |
| `--data-parallel-size`, `--no-...` of a boolean | V1 engines |
| `--async-scheduling` | V1 engines; off by default up to 0.13, refused there with pipelines, up to 0.11 with drafts |
| `--nnodes`, `--node-rank`, `--master-addr` | from 0.12; older versions span nodes by Ray |
| `--cudagraph-capture-sizes` | from 0.12; `--cuda-graph-sizes` before |
| `--stream-interval` | from 0.12 |
| `--language-model-only` | from 0.18 |
| `--scheduler-reserve-full-isl` | from 0.19 |
"""

from collections.abc import Iterator
from typing import Final

from simulator.engine_profiles.bundled_profiles import bundled_profiles, newest_bundled, release_in
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.engine_profiles.graph_capture import GraphCapture
from simulator.engine_profiles.graph_modes import GRAPH_MODES
from simulator.launch.remarks import (
    DTYPE_NAMES,
    checkpoint,
    is_cast_while_loading,
    kv_format_name,
    remarks,
    replicas_per_server,
)
from simulator.launch.shell import Flag, above_one, as_json, command
from simulator.model.cell import keeps_state
from simulator.model.cells.latent_attention import LatentAttention
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.serving import Serving, StartedPlan

Version = tuple[int, int]

_SPANS_NODES: Final[Version] = (0, 12)
_HAS_CAPTURE_SIZES: Final[Version] = (0, 12)
_HAS_TEXT_ONLY: Final[Version] = (0, 18)
_HAS_FULL_ISL: Final[Version] = (0, 19)
_MODE_NAMES: Final = {steps: name for name, steps in GRAPH_MODES.items()}


def vllm_lines(serving: Serving, start: StartedPlan, more: str = "") -> Iterator[str]:
    """Yield the commands of one pool; ``more`` is added to each."""
    plan, cluster, version = start.plan, serving.cluster, release(serving.profile)
    is_v0 = serving.profile.policy == "vllm-v0"
    # Data parallelism inside a server shares the experts, V0 engines have none, and it spreads requests its own way.
    are_apart = serving.model.has_experts or is_v0 or start.router != "vllm"
    replicas = 1 if are_apart else replicas_per_server(plan, cluster.devices_per_host)
    devices = replicas * plan.replica_devices
    nodes = -(-devices // cluster.devices_per_host)
    text_only = bool(serving.model.left_out) and version >= _HAS_TEXT_ONLY
    yield from remarks(serving, start, servers=plan.dp // replicas, devices=devices, is_text_only=text_only)
    degrees: list[Flag] = [
        ("--tensor-parallel-size", above_one(plan.tp)),
        ("--pipeline-parallel-size", above_one(plan.pp)),
        ("--data-parallel-size", above_one(replicas * plan.attention_dp)),
        ("--enable-expert-parallel", True if plan.ep > 1 else None),
        ("--enable-eplb", True if plan.redundant_experts else None),
        ("--eplb-config", _redundant(plan)),
        ("--decode-context-parallel-size", above_one(plan.dcp)),
    ]
    formats: list[Flag] = [
        ("--quantization", "fp8" if is_cast_while_loading(serving, plan) else None),
        ("--dtype", DTYPE_NAMES.get(plan.weight_dtype or "")),
        ("--kv-cache-dtype", kv_format_name(serving, start, fp8="fp8")),
        ("--language-model-only", True if text_only else None),
        ("--mm-encoder-tp-mode", serving.overrides.mm_encoder_tp_mode),
    ]
    rest = [*formats, *_limits(serving, start, is_v0), *_graphs(serving, version), *_drafts(serving, start)]
    serve = f"vllm serve {checkpoint(serving, plan)}"
    if nodes == 1:
        yield command(serve, [*degrees, *rest]) + more
    elif version >= _SPANS_NODES:
        across: Flag = ("--nnodes", f"{nodes} --master-addr HEAD --node-rank")
        yield f"# each server spans {nodes} nodes; HEAD is the address of the first; on the first"
        yield command(serve, [*degrees, (across[0], f"{across[1]} 0"), *rest]) + more
        yield f"# and on each of the others, RANK from 1 to {nodes - 1}"
        others: list[Flag] = [(across[0], f"{across[1]} RANK"), ("--headless", True)]
        yield command(serve, [*degrees, *others, *rest]) + more
    else:
        yield f"# each server spans {nodes} nodes: join them in one Ray cluster first"
        yield command(serve, [*degrees, *_by_ray(plan, cluster.devices_per_host), *rest]) + more


def release(profile: EngineProfile) -> Version:
    """Major and minor version; a profile of no stated version is taken for the newest bundled one."""
    return profile.release or release_in(newest_bundled("vllm") or "") or (0, 0)


def has_no_place(serving: Serving, plan: Plan) -> str | None:
    """Why a version cannot start the plan though its scheduler can run it; None when it can."""
    ranks = plan.pp * plan.tp
    if plan.attention_dp > 1 and ranks > serving.cluster.devices_per_host and release(serving.profile) < _SPANS_NODES:
        return f"{serving.profile.name} places no attention rank of {ranks} devices over several nodes"
    return None


def chooses_own_block(model: ModelSpec) -> bool:
    """Whether the engine derives the block from the model's kernels and states instead of a default."""
    return any(
        isinstance(cell, LatentAttention) or keeps_state(cell) for block in model.unique_blocks for cell in block.cells
    )


def _redundant(plan: Plan) -> str | None:
    return as_json({"num_redundant_experts": plan.redundant_experts}) if plan.redundant_experts else None


def _limits(serving: Serving, start: StartedPlan, is_v0: bool) -> Iterator[Flag]:
    """State every limit of the scheduler and of the memory, its own defaults included."""
    server, stated = start.server, serving.overrides
    yield "--max-model-len", server.max_model_len
    yield "--max-num-seqs", server.max_num_seqs
    yield "--max-num-batched-tokens", server.max_num_batched_tokens
    yield "--gpu-memory-utilization", server.gpu_memory_utilization
    yield "--num-gpu-blocks-override", stated.num_gpu_blocks
    # Attention over latents and states of hybrid models choose their own block: another one costs them their kernel.
    is_chosen = stated.block_size is None and chooses_own_block(serving.model)
    yield "--block-size", None if is_chosen else server.block_size
    if is_v0:  # no negated flags, and nothing is scheduled ahead
        yield "--enable-prefix-caching", server.enable_prefix_caching or None
        yield "--enable-chunked-prefill", str(server.enable_chunked_prefill)
        return
    yield "--enable-prefix-caching", server.enable_prefix_caching
    yield "--enable-chunked-prefill", server.enable_chunked_prefill
    yield "--async-scheduling", server.async_scheduling
    yield "--stream-interval", above_one(start.limits.stream_interval)
    if release(serving.profile) >= _HAS_FULL_ISL:
        yield "--scheduler-reserve-full-isl", server.reserve_full_isl


def _graphs(serving: Serving, version: Version) -> Iterator[Flag]:
    """State graph sizes and modes that are not those of the version itself."""
    profile = serving.profile
    own, graphs = _own_graphs(profile), profile.graphs
    if serving.overrides.enforce_eager or graphs.decode == "none":
        yield "--enforce-eager", True
        return
    if profile.policy == "vllm-v0":
        return
    largest = serving.overrides.max_cudagraph_capture_size
    if largest is not None and version >= _HAS_CAPTURE_SIZES:
        yield "--max-cudagraph-capture-size", largest
    elif own is not None and (largest is not None or _sizes(own) != _sizes(graphs)):
        name = "--cudagraph-capture-sizes" if version >= _HAS_CAPTURE_SIZES else "--cuda-graph-sizes"
        yield name, " ".join(map(str, _sizes(graphs, largest)))
    mode = serving.overrides.cudagraph_mode
    if mode is not None or own is None or (own.decode, own.mixed) != (graphs.decode, graphs.mixed):
        mode = mode or _MODE_NAMES.get((graphs.decode, graphs.mixed), "PIECEWISE")
        yield "--compilation-config", as_json({"cudagraph_mode": mode})


def _own_graphs(profile: EngineProfile) -> GraphCapture | None:
    """Return the graphs a version captures by itself, where it is a bundled one."""
    of_version = release(profile)
    own = next(
        (name for name in bundled_profiles() if name.startswith("vllm-") and release_in(name) == of_version), None
    )
    return None if own is None else load_profile(own).graphs


def _sizes(graphs: GraphCapture, largest: int | None = None) -> list[int]:
    last, most = graphs.sizes[-1] if graphs.sizes else 0, largest or graphs.max_tokens
    sizes = [*graphs.sizes, *range(last + graphs.step, most + 1, graphs.step)]
    return [size for size in sizes if largest is None or size <= largest]


def _drafts(serving: Serving, start: StartedPlan) -> Iterator[Flag]:
    if start.limits.num_speculative_tokens:
        method = serving.draft_method
        drafts = {"model": "DRAFT_MODEL"} if method == "draft_model" else {"method": str(method)}
        counted = drafts | {"num_speculative_tokens": start.limits.num_speculative_tokens}
        yield "--speculative-config", as_json(counted)


def _by_ray(plan: Plan, devices_per_host: int) -> list[Flag]:
    """Return what spans the nodes of a Ray cluster: stages and tensor ranks, or attention ranks of a node each."""
    ranks_per_node = devices_per_host // (plan.pp * plan.tp)
    if plan.attention_dp > 1:
        return [("--data-parallel-backend", "ray"), ("--data-parallel-size-local", ranks_per_node)]
    return [("--distributed-executor-backend", "ray")]
