"""vLLM's own kernels where vLLM is installed: what its engine really runs, instead of the most similar kernel of torch.

Entry points move between releases: `profiler.kernels.vllm_signatures` compares every call made here with the
signatures of an installed or unpacked vLLM. Weights are column-major [k, n] as vLLM's linear layers hold them.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final

import torch

from costmodel.ops.small_ops import SCALE_GROUP, SMALL_OPS
from profiler.backend import Prepared, Unsupported
from profiler.kernels.attention import page_table, sequence_lengths
from profiler.kernels.buffers import Buffers
from profiler.kernels.routing import reached_frac, route
from profiler.kernels.row_operands import Rows, made_of
from profiler.kernels.torch_rows import EPSILON
from profiler.point import OpShape

_PAGE_TOKENS: Final = 16
_HOPPER_FLASH: Final = 3


class VllmBackend:
    """vLLM's custom ops, flash attention and fused experts."""

    name = "vllm"

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return vLLM's kernel for ``op`` where its engine has one of its own."""
        match op.family:
            case "gemm" if op.dtype in {"fp8", "w8a8"} and op.shape["scaling"] in {"tensor", "row"}:
                return ("vllm.cutlass_scaled_mm",)
            case "attention" if op.dtype in {"bf16", "fp16"} and op.shape["variant"] == "gqa":
                return ("vllm.flash_attn",) if op.shape["kv_dtype"] in {op.dtype, "fp8"} else ()
            case "moe" if op.dtype in {"bf16", "fp8", "fp8_block"}:
                return ("vllm.fused_experts",)
            case "elementwise":
                entry = SMALL_OPS.get(op.shape["op"])
                return (entry.vllm[op.dtype],) if entry and op.dtype in entry.vllm else ()
        return ()

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> Prepared:
        """Allocate operands and return the launch; raises ``Unsupported`` where this vLLM has not the kernel."""
        try:
            match op.family:
                case "gemm":
                    return _scaled_mm(op, buffers)
                case "attention":
                    return _flash_attention(op, buffers)
                case "moe":
                    return _experts(op, buffers)
            return _small_op(op, kernel, buffers)
        except (ImportError, AttributeError) as error:
            raise Unsupported(f"this vLLM has no {kernel}: {error}") from error


def _over(inputs: list[torch.Tensor], call: Callable[[torch.Tensor], object]) -> Prepared:
    copies = len(inputs)
    return Prepared(lambda i: call(inputs[i % copies]), copies)


def _scaled_mm(op: OpShape, buffers: Buffers) -> Prepared:
    from vllm import _custom_ops as ops

    m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
    if n % 16 or k % 16:
        raise Unsupported(f"cutlass_scaled_mm needs n and k in multiples of 16, got n={n} k={k}")
    is_fp8, is_row = op.dtype == "fp8", op.shape["scaling"] == "row"
    source = buffers.random((m, k), "bf16")

    def quantise() -> tuple[torch.Tensor, torch.Tensor]:
        if is_fp8:
            quantised, scale = ops.scaled_fp8_quant(source, use_per_token_if_dynamic=is_row)
        else:
            quantised, scale, _ = ops.scaled_int8_quant(source)
        return quantised, scale

    ready = quantise()
    scale_b = torch.full((1, n) if is_row else (1, 1), 0.01, device=buffers.device)
    weights = [weight.t() for weight in buffers.rotating((n, k), "fp8" if is_fp8 else "int8")]

    def call(weight: torch.Tensor) -> object:
        activation, scale_a = quantise() if op.shape["quantise"] else ready
        return ops.cutlass_scaled_mm(activation, weight, scale_a, scale_b, out_dtype=torch.bfloat16)

    return _over(weights, call)


def _small_op(op: OpShape, kernel: str, buffers: Buffers) -> Prepared:
    from vllm import _custom_ops as ops

    rows, width, row = op.shape["rows"], op.shape["width"], made_of(op)
    if row.dtype != "bf16" or row.scales > 1:
        raise Unsupported(f"{kernel} takes 16-bit rows and one scale per row, not {row}")
    inputs = buffers.rotating((rows, width), "bf16")
    weight = buffers.random((width,), "bf16")
    if kernel == "vllm.rms_norm":
        out = torch.empty_like(inputs[0])
        return _over(inputs, lambda x: ops.rms_norm(out, x, weight, EPSILON))
    if kernel == "vllm.fused_add_rms_norm":
        residual = buffers.random((rows, width), "bf16")
        return _over(inputs, lambda x: ops.fused_add_rms_norm(x, residual, weight, EPSILON))
    if kernel == "vllm.scaled_fp8_quant":
        scale = None if row.scales else torch.full((1,), 0.01, device=buffers.device)
        return _over(inputs, lambda x: ops.scaled_fp8_quant(x, scale, use_per_token_if_dynamic=True))
    if kernel == "vllm.scaled_int8_quant":
        scale = None if row.scales else torch.full((1,), 0.01, device=buffers.device)
        return _over(inputs, lambda x: ops.scaled_int8_quant(x, scale, symmetric=True))
    head_dim = Rows(rows, row, buffers).head_dim
    positions = buffers.integers((rows,), 4096)
    cache = buffers.random((4096, head_dim), "bf16")
    # The key argument takes a sixth of the heads or at least one: together query and key make up the width.
    split = max(width // head_dim // 6, 1) * head_dim if width > head_dim else 0
    if not split:
        raise Unsupported("rotary_embedding turns a query and a key: two heads at least")
    return _over(
        inputs,
        lambda x: ops.rotary_embedding(positions, x[:, split:], x[:, :split], head_dim, cache, True),
    )


def _flash_attention(op: OpShape, buffers: Buffers) -> Prepared:
    """Call flash attention as vLLM's engine does: the generation it picks, scheduled ahead where that can be."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func, get_scheduler_metadata, is_fa_version_supported

    shape, device = op.shape, buffers.device
    lengths_q, lengths_kv = sequence_lengths(op)
    version = flash_version(torch.cuda.get_device_capability(device), shape["head_dim"], is_fa_version_supported)
    is_fp8 = shape["kv_dtype"] == "fp8"
    if is_fp8 and version != _HOPPER_FLASH:
        raise Unsupported(f"vLLM reads an FP8 cache by flash attention 3 (Hopper), here it runs generation {version}")
    table, pages = page_table(lengths_kv, _PAGE_TOKENS)
    block_table = table.to(device)
    used = torch.tensor(lengths_kv, dtype=torch.int32, device=device)
    cu_q = torch.tensor([0, *accumulate(lengths_q)], dtype=torch.int32, device=device)
    queries = buffers.random((sum(lengths_q), shape["num_heads"], shape["head_dim"]), op.dtype)
    options: dict[str, Any] = {}
    if is_fp8:  # an fp8 cache is read by fp8 queries; one scale per sequence and KV head
        queries = queries.to(torch.float8_e4m3fn)
        scales = torch.ones((len(lengths_kv), shape["num_kv_heads"]), device=device)
        options = {"q_descale": scales, "k_descale": scales, "v_descale": scales}
    cache = (2, pages, _PAGE_TOKENS, shape["num_kv_heads"], shape["head_dim"])
    longest_q, longest_kv = max(lengths_q), max(lengths_kv)
    window = [shape["window"] - 1, 0] if shape["window"] else [-1, -1]
    if version == _HOPPER_FLASH:  # once per step in the engine, not once per layer
        options["scheduler_metadata"] = get_scheduler_metadata(
            batch_size=len(lengths_q),
            max_seqlen_q=longest_q,
            max_seqlen_k=longest_kv,
            num_heads_q=shape["num_heads"],
            num_heads_kv=shape["num_kv_heads"],
            headdim=shape["head_dim"],
            cache_seqlens=used,
            qkv_dtype=queries.dtype,
            cu_seqlens_q=cu_q,
            page_size=_PAGE_TOKENS,
            causal=True,
            window_size=window,
        )
    return _over(
        buffers.rotating(cache, shape["kv_dtype"]),
        lambda kv: flash_attn_varlen_func(
            queries,
            kv[0],
            kv[1],
            max_seqlen_q=longest_q,
            cu_seqlens_q=cu_q,
            max_seqlen_k=longest_kv,
            seqused_k=used,
            causal=True,
            window_size=window,
            block_table=block_table,
            fa_version=version,
            **options,
        ),
    )


def flash_version(capability: tuple[int, int], head_dim: int, is_supported: Callable[[int], bool]) -> int:
    """Return the generation of flash attention vLLM's engine picks; the function itself would default to 2."""
    if capability[0] == 9 and is_supported(_HOPPER_FLASH):
        return _HOPPER_FLASH
    try:
        has_newest = capability[0] == 10 and head_dim <= 128 and is_supported(4)
    except (AssertionError, ValueError):  # a vLLM that knows no fourth
        has_newest = False
    return 4 if has_newest else 2


def _experts(op: OpShape, buffers: Buffers) -> Prepared:
    from vllm.model_executor.layers.fused_moe import fused_experts

    shape = op.shape
    local, inter, hidden = shape["num_experts"] // shape["ep"], shape["inter"] // shape["tp"], shape["hidden"]
    tokens = buffers.random((shape["num_tokens"], hidden), "bf16")
    sizes = (shape["num_tokens"], shape["num_experts"], shape["topk"], shape["routing"])
    ids = route(*sizes, seed=0, device=buffers.device, ep=shape["ep"]).to(torch.int32)
    weights = torch.full(ids.shape, 1.0 / shape["topk"], device=buffers.device)
    expert_map = None
    if shape["ep"] > 1:
        expert_map = torch.full((shape["num_experts"],), -1, dtype=torch.int32, device=buffers.device)
        expert_map[:local] = torch.arange(local, dtype=torch.int32, device=buffers.device)
    sides = ((local, 2 * inter, hidden), (local, hidden, inter))
    read_frac = reached_frac(ids, local)
    stored = "bf16" if op.dtype == "bf16" else "fp8"
    gate_up, down = (buffers.rotating(side, stored, read_frac=read_frac) for side in sides)
    copies = max(len(gate_up), len(down))
    quant_config = None if op.dtype == "bf16" else _expert_scales(op.dtype, sides, buffers.device)
    return Prepared(
        lambda i: fused_experts(
            tokens,
            gate_up[i % len(gate_up)],
            down[i % len(down)],
            weights,
            ids,
            global_num_experts=shape["num_experts"],
            expert_map=expert_map,
            quant_config=quant_config,
        ),
        copies,
    )


def _expert_scales(dtype: str, sides: Sequence[tuple[int, int, int]], device: torch.device) -> object:
    """Return how both weights [experts, n, k] are scaled: per output channel and token, or in 128 x 128 blocks."""
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config

    is_block = dtype == "fp8_block"
    if is_block and any(size % SCALE_GROUP for _, n, k in sides for size in (n, k)):
        widths = ", ".join(f"{n} x {k}" for _, n, k in sides)
        raise Unsupported(f"blocks of {SCALE_GROUP} do not divide the widths {widths}")
    shapes = [(e, n // SCALE_GROUP, k // SCALE_GROUP) if is_block else (e, n, 1) for e, n, k in sides]
    w1_scale, w2_scale = (torch.full(shape, 0.01, device=device) for shape in shapes)
    return fp8_w8a8_moe_quant_config(
        w1_scale=w1_scale,
        w2_scale=w2_scale,
        per_act_token_quant=not is_block,
        per_out_ch_quant=not is_block,
        block_shape=[SCALE_GROUP, SCALE_GROUP] if is_block else None,
    )
