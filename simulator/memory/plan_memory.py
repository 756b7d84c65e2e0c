"""Whether a plan fits, and how many KV blocks are left: weights, activations, graphs and the runtime's own memory.

    usable = share * device memory
    blocks = (usable - weights - activation peak - graphs - runtime) // bytes per block

on the worst pipeline stage, which is what an engine's start-up profile run measures on its worst rank; `start_up` has
the rules of engines that share memory otherwise. Activations peak either inside a layer of a full step (residual
stream and one op's input and output) or in the sampler, which holds the residual stream and `max_num_seqs` rows of
logits with the copies it works on; workspaces of fused experts that the engine keeps come on top of either. Checked
against real servers in `tests/simulator/test_plan_memory.py` and `docs/accuracy.md`.
"""

from collections.abc import Iterable
from itertools import chain
from math import ceil

from cluster_specs.device import DeviceSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.custom import Custom
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Elementwise, Gemm, Moe, Op
from costmodel.ops.small_ops import works_in_place
from simulator.engine_profiles.start_up import StartUpMemory
from simulator.memory.kv_cache import kv_cache
from simulator.model.expert_layout import ExpertKernel
from simulator.model.linear import MXFP4_MXFP8, activation_dtype
from simulator.model.spec import Block, ModelSpec, padded_vocab
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Memory of the worst rank, and the KV blocks of one attention rank (``reason`` says why there are none)."""

    device_bytes: int
    usable_bytes: int
    weights_bytes: int
    activation_bytes: int
    graph_bytes: int
    runtime_bytes: int
    kv_bytes: int
    block_bytes: int
    block_size: int
    num_gpu_blocks: int  # as an engine logs it; one of them is the null block
    blocks_error: int = 0  # half the 90 % interval of their number; 0 where it is stated
    state_slots: int | None = None  # sequences the engine can start with at most, for the sake of their states
    reason: str | None = None

    @property
    def fits(self) -> bool:
        """Whether weights, a full step and one request of the longest length find room."""
        return self.reason is None

    @property
    def usable_blocks(self) -> int:
        """Blocks requests can hold: all but the null block."""
        return max(0, self.num_gpu_blocks - 1)

    @property
    def kv_tokens(self) -> int:
        """Tokens of context one attention rank can hold."""
        return self.usable_blocks * self.block_size


def plan_memory(
    model: ModelSpec,
    plan: Plan,
    device: DeviceSpec,
    *,
    start_up: StartUpMemory,
    gpu_memory_utilization: float,
    block_size: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    max_model_len: int,
    num_gpu_blocks: int | None = None,
    captured_graphs: int = 0,
    expert_kernel: ExpertKernel = "plain",
    context_tokens: int | None = None,
    caches_prefixes: bool = True,
    has_fast_links: bool = True,
    deepep_buffers: int = 0,
    encoder_rows: int = 0,
) -> MemoryBudget:
    """Budget of one rank of ``plan`` on ``device``.

    ``gpu_memory_utilization`` is the share that ``start_up`` gives a meaning. ``num_gpu_blocks`` (from a server's log)
    overrides the count. ``captured_graphs`` is how many CUDA graphs the engine sets memory aside for before it sizes
    the cache (none before vLLM 0.21), ``expert_kernel`` the kernel of MXFP4 experts. ``context_tokens`` is the mean
    context a running request holds: with it, sliding-window layers count only the window; without, all of it, which
    is a lower bound of the capacity. Where states are paged, ``num_gpu_blocks`` counts the blocks they share.
    ``has_fast_links``: NVLink or its like joins the devices of a node, and with it come larger communicators.
    ``encoder_rows``: rows that an encoder of images or audio hands over at most in a step, and keeps.
    ``deepep_buffers``: buffers of DeepEP on a device, one for its node and one for other nodes.
    """
    rows = min(max_num_seqs, max_num_batched_tokens)
    budgets = []
    for index, (blocks, weights) in enumerate(
        zip(model.stage_blocks(plan), model.stage_weight_bytes(plan), strict=True)
    ):
        sampled = rows * start_up.logit_bytes if index == plan.pp - 1 else 0.0
        activation = _activation_bytes(
            model, plan, blocks, max_num_batched_tokens, sampled, start_up=start_up, expert_kernel=expert_kernel
        )
        if encoder_rows and index == 0:
            activation = encoder_activation_bytes(model, plan, encoder_rows, activation, start_up=start_up)
        layer_graphs = captured_graphs * sum(count for _, count in blocks)
        graphs = int(layer_graphs * start_up.graph_layer_kib * 2**10)
        runtime = start_up.runtime_bytes(plan, has_fast_links=has_fast_links, deepep_buffers=deepep_buffers)
        usable, kv = _shared(
            start_up,
            device.memory_bytes,
            gpu_memory_utilization,
            weights=weights,
            runtime=runtime,
            step=activation + graphs,
        )
        cache = kv_cache(
            start_up.states,
            plan,
            blocks,
            kv,
            block_size=block_size,
            context_tokens=context_tokens,
            num_gpu_blocks=num_gpu_blocks,
            caches_prefixes=caches_prefixes,
        )
        error = start_up.error_bytes(plan, gpu_memory_utilization, graphs=layer_graphs, has_fast_links=has_fast_links)
        is_counted = num_gpu_blocks is None and cache.kv_bytes > 0
        others = 0 if start_up.rule == "static_share" else activation + graphs + runtime
        reason = _shortage(weights, others, usable, cache.longest_tokens, max_model_len)
        if reason is not None and start_up.rule != "share_of_free" and gpu_memory_utilization > 0.0:
            beside = activation + graphs if start_up.rule == "static_share" else 0
            request = ceil(max_model_len / block_size) * cache.block_bytes
            reason += _larger_share(usable / gpu_memory_utilization, weights + others + request, beside)
        budgets.append(
            MemoryBudget(
                device_bytes=device.memory_bytes,
                usable_bytes=usable,
                weights_bytes=weights,
                activation_bytes=activation,
                graph_bytes=graphs,
                runtime_bytes=runtime,
                kv_bytes=cache.kv_bytes,
                block_bytes=cache.block_bytes,
                block_size=block_size,
                num_gpu_blocks=cache.blocks,
                blocks_error=round(cache.blocks * min(1.0, error / cache.kv_bytes)) if is_counted else 0,
                state_slots=cache.state_slots,
                reason=reason,
            )
        )
    return min(budgets, key=lambda budget: (budget.num_gpu_blocks, -budget.weights_bytes))


def _shared(
    start_up: StartUpMemory, total: int, share: float, *, weights: int, runtime: int, step: int
) -> tuple[int, int]:
    """Bytes that weights and what the rule counts beside them may take, and those left for KV (negative: too few)."""
    context = int(start_up.context_mib * 2**20)
    match start_up.rule:
        case "share_of_total":
            usable = int(total * share)
            return usable, usable - weights - step - runtime
        case "static_share":
            usable = int((total - context - runtime) * share)
            return usable, usable - weights
        case "share_of_free":
            usable = total - context
            return usable, int((usable - weights - step - runtime) * share)


def _shortage(weights: int, others: int, usable: int, tokens: int, max_model_len: int) -> str | None:
    """Why nothing can be served, with value and limit."""
    gib = 2**30
    if weights > usable:
        return f"weights need {weights / gib:.1f} GiB per device, at most {usable / gib:.1f} GiB are usable"
    if weights + others > usable:
        return (
            f"weights ({weights / gib:.1f} GiB) and a full step ({others / gib:.1f} GiB) need "
            f"{(weights + others) / gib:.1f} GiB per device, at most {usable / gib:.1f} GiB are usable"
        )
    if tokens < max_model_len:
        return (
            f"KV cache holds {tokens} tokens after {weights / gib:.1f} GiB of weights, must hold one request of "
            f"max_model_len = {max_model_len}"
        )
    return None


def _larger_share(whole: float, needed: int, beside: int) -> str:
    """Name the share of ``whole`` that would hold what is needed and leave ``beside`` free; empty where none does."""
    share = ceil(1000 * needed / whole) / 1000
    if share >= 1 or share * whole + beside > whole:
        return ""
    return f"; a gpu_memory_utilization of {share:g} would hold one request"


def _activation_bytes(
    model: ModelSpec,
    plan: Plan,
    blocks: tuple[tuple[Block, int], ...],
    tokens: int,
    bytes_per_vocab_entry: float,
    *,
    start_up: StartUpMemory,
    expert_kernel: ExpertKernel,
) -> int:
    """Peak of a profile run: the hungriest op of a layer, or the sampler over all sampled rows, and kept workspaces."""
    element = DTYPE_BYTES[activation_dtype(plan, model.dtype)]
    residual = tokens * model.hidden_size * element
    ops = list(chain.from_iterable(block.token_ops(plan, tokens) for block, _ in blocks))
    workspace = max((workspace_bytes(op, element, start_up, expert_kernel) for op in ops), default=0.0)
    layer = residual + _largest_step(ops, element, start_up)
    logits = bytes_per_vocab_entry * padded_vocab(model.vocab_size)
    sampler = 2 * residual + logits if logits else 0.0
    return int(workspace + max(layer, sampler))


def encoder_activation_bytes(
    model: ModelSpec, plan: Plan, rows: int, activation: int, *, start_up: StartUpMemory
) -> int:
    """Peak of a profile run with an encoder: its own over the items of ``rows``, or the decoder's beside these rows."""
    encoder = model.encoder
    assert encoder is not None
    element = DTYPE_BYTES[activation_dtype(plan, encoder.dtype)]
    tokens = ceil(rows * encoder.tokens_per_row)
    ops = [op for op, _ in encoder.token_ops(plan, tokens)]
    width = max((float(linear.n) for linear in encoder.front), default=float(model.hidden_size))
    own = tokens * width * element + _largest_step(ops, element, start_up)
    return int(max(activation + rows * model.hidden_size * element, own))


def _largest_step(ops: Iterable[Op], element: float, start_up: StartUpMemory) -> float:
    """Bytes of the op that holds most besides the residual stream."""
    return max((step_bytes(op, element, start_up) for op in ops), default=0.0)


def step_bytes(op: Op, element: float, start_up: StartUpMemory) -> float:
    """Bytes of an op's input and output; fused experts without a kept workspace hold their two inner results too."""
    if isinstance(op, Gemm):
        return float(op.m) * (float(op.n) + float(op.k)) * element
    if isinstance(op, Moe) and isinstance(op.num_tokens, int):
        both_ends = 2.0 * float(op.num_tokens) * op.hidden * element
        if start_up.expert_workspace == "kept":
            return both_ends
        chunk = min(op.num_tokens, start_up.expert_chunk_tokens or op.num_tokens)
        wide = max(op.up_width, op.hidden)
        return both_ends + float(chunk) * op.topk * (wide + op.local_inter) * element
    if isinstance(op, Elementwise) and not works_in_place(op.op):
        return float(op.rows) * op.bytes_per_row
    if isinstance(op, Custom):
        return float(op.amount) * op.unit_bytes
    return 0.0


def workspace_bytes(op: Op, element: float, start_up: StartUpMemory, expert_kernel: ExpertKernel) -> float:
    """Bytes of the two workspaces of fused experts: rows of all chosen experts, as wide as what each ever holds.

    Only an engine that keeps them has them, and MXFP4 experts only where their kernel uses them. The first takes the
    results of either GEMM's far side, the second those of both (vLLM, ``workspace_shapes`` of fused_moe.py and
    fused_marlin_moe.py).
    """
    if start_up.expert_workspace != "kept" or not isinstance(op, Moe) or not isinstance(op.num_tokens, int):
        return 0.0
    if op.dtype in {"mxfp4", MXFP4_MXFP8} and expert_kernel not in start_up.workspace_kernels:
        return 0.0
    widths = max(op.local_inter, op.hidden) + max(op.up_width, op.hidden)
    return float(op.num_tokens) * op.topk * widths * element
