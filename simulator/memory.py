"""Whether a plan fits, and how many KV blocks are left: weights, activations, graphs and the runtime's own memory.

    usable = gpu_memory_utilization * device memory
    blocks = (usable - weights - activation peak - graphs - runtime) // bytes per block

on the worst pipeline stage, which is what an engine's start-up profile run measures on its worst rank. Activations
peak either inside a layer of a full step (residual stream and one op's input and output) or in the sampler, which
holds the residual stream and `max_num_seqs` rows of logits in fp32 with the copies that sorting them needs. Checked
against block counts of real servers in `tests/simulator/test_memory.py`.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Final

from cluster_specs.device import DeviceSpec
from costmodel.ops import DTYPE_BYTES, Elementwise, Gemm, Moe, Op
from simulator.model.cell import KeepsState
from simulator.model.linear import activation_dtype
from simulator.model.spec import Block, ModelSpec, padded_vocab
from simulator.plan import Plan

# Growth of the CUDA context, cuBLAS workspaces and loaded modules after start-up: public vLLM start-up logs state
# "non_torch_memory takes" 0.11-0.26 GiB on one GPU.
RUNTIME_BYTES: Final = 160 * 2**20
# Channel buffers of NCCL and the staging buffers of a custom all-reduce: the same line is about 0.2 GiB higher where
# ranks communicate.
COMMUNICATOR_BYTES: Final = 200 * 2**20
# Fused experts work through a step in chunks of this many tokens, so their inner results never grow beyond one.
EXPERT_CHUNK_TOKENS: Final = 16 * 1024
# One captured graph of one layer: public logs state 0.73 GiB for 86 graphs of 32 layers, 0.55 GiB for 67 of 32.
GRAPH_LAYER_BYTES: Final = 256 * 2**10
# Logits in 16 bits and fp32, and top-p by sorting: (fp32 value, int64 index) pairs and the radix sort's second buffer.
SORTED_LOGIT_BYTES: Final = 2 + 4 + 2 * (4 + 8)
# Logits in 16 bits and fp32 and their probabilities: samplers that draw without sorting.
DRAWN_LOGIT_BYTES: Final = 2 + 4 + 4


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
    gpu_memory_utilization: float,
    block_size: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    max_model_len: int,
    num_gpu_blocks: int | None = None,
    captured_graphs: int = 0,
    sampler_sorts: bool = False,
    context_tokens: int | None = None,
) -> MemoryBudget:
    """Budget of one rank of ``plan`` on ``device``.

    ``num_gpu_blocks`` (from a server's log) overrides the count. ``captured_graphs`` is how many CUDA graphs the
    engine sets memory aside for before it sizes the cache (none before vLLM 0.21); ``sampler_sorts`` is true for
    engines whose sampler sorts the logits for top-p (vLLM before its Triton sampler). ``context_tokens`` is the mean
    context a running request holds: with it, sliding-window layers count only the window; without, all of it, which
    is a lower bound of the capacity.
    """
    usable = int(device.memory_bytes * gpu_memory_utilization)
    runtime = RUNTIME_BYTES + (COMMUNICATOR_BYTES if plan.replica_devices > 1 else 0)
    logit_bytes = SORTED_LOGIT_BYTES if sampler_sorts else DRAWN_LOGIT_BYTES
    rows = min(max_num_seqs, max_num_batched_tokens)
    budgets = []
    for index, (blocks, weights) in enumerate(
        zip(model.stage_blocks(plan.pp), model.stage_weight_bytes(plan), strict=True)
    ):
        sampled = rows * logit_bytes if index == plan.pp - 1 else 0
        activation = _activation_bytes(model, plan, blocks, max_num_batched_tokens, sampled)
        graphs = captured_graphs * sum(count for _, count in blocks) * GRAPH_LAYER_BYTES
        block_bytes = _block_bytes(plan, blocks, block_size, context_tokens)
        kv = usable - weights - activation - graphs - runtime
        held = max(0, kv) // block_bytes if num_gpu_blocks is None else num_gpu_blocks
        budgets.append(
            MemoryBudget(
                device_bytes=device.memory_bytes,
                usable_bytes=usable,
                weights_bytes=weights,
                activation_bytes=activation,
                graph_bytes=graphs,
                runtime_bytes=runtime,
                kv_bytes=kv if num_gpu_blocks is None else num_gpu_blocks * block_bytes,
                block_bytes=block_bytes,
                block_size=block_size,
                num_gpu_blocks=held,
                reason=_shortage(weights, activation + graphs + runtime, usable, held * block_size, max_model_len),
            )
        )
    return min(budgets, key=lambda budget: (budget.num_gpu_blocks, -budget.weights_bytes))


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


def _block_bytes(plan: Plan, blocks: tuple[tuple[Block, int], ...], block_size: int, context_tokens: int | None) -> int:
    """Bytes of one KV block over the layers of a stage; windowed layers count the share of the context they keep."""
    total = 0.0
    for block, count in blocks:
        for cell in block.cells:
            call = cell.attention(plan)
            window = call.decode.window if call is not None and not call.is_sparse else 0
            share = 1.0
            if window and context_tokens is not None:
                share = min(1.0, (window + block_size) / context_tokens)
            total += count * share * cell.kv_bytes_per_token(plan) * block_size
            if isinstance(cell, KeepsState):
                # A request's state does not grow: it weighs on the blocks of the context a request holds on average.
                total += count * cell.kv_bytes_per_request(plan) * block_size / max(context_tokens or 0, block_size)
    return max(1, round(total))


def _activation_bytes(
    model: ModelSpec, plan: Plan, blocks: tuple[tuple[Block, int], ...], tokens: int, bytes_per_vocab_entry: int
) -> int:
    """Peak of a profile run: the hungriest op of a layer, or the sampler over all sampled rows."""
    element = DTYPE_BYTES[activation_dtype(plan, model.dtype)]
    residual = tokens * model.hidden_size * element
    ops = chain.from_iterable(block.token_ops(plan, tokens) for block, _ in blocks)
    layer = residual + max((_transient_bytes(op, element) for op in ops), default=0.0)
    logits = bytes_per_vocab_entry * padded_vocab(model.vocab_size)
    sampler = 2 * residual + logits if logits else 0.0
    return int(max(layer, sampler))


def _transient_bytes(op: Op, element: float) -> float:
    """Bytes of an op's input and output; the fused experts hold their two inner results at once."""
    if isinstance(op, Gemm):
        return float(op.m) * (float(op.n) + float(op.k)) * element
    if isinstance(op, Moe) and isinstance(op.num_tokens, int):
        wide = max(2 * op.local_inter, op.hidden)
        pairs = float(min(op.num_tokens, EXPERT_CHUNK_TOKENS)) * op.topk * (wide + op.local_inter)
        return (pairs + 2.0 * float(op.num_tokens) * op.hidden) * element
    if isinstance(op, Elementwise) and not op.op.startswith("add"):  # the residual add works in place
        return float(op.rows) * op.bytes_per_row
    return 0.0
