"""An expert layer on our own Triton kernels, in the formats engines serve: tokens in, summed expert results out.

Gather and gate-up GEMM, SiLU-mul, down GEMM weighted by the router, sum over a token's experts: four launches. Formats
with one-byte activations quantise the tokens first (each token once, not once per expert) and the inner result in the
pass that computes it.
"""

from collections.abc import Callable
from typing import Final

import torch

from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.kernels.moe import ExpertShard
from profiler.kernels.quantise import require_fp8
from profiler.kernels.triton_experts import ExpertWeights, GroupedGemm, combine
from profiler.kernels.triton_groups import quantise_group, silu_mul_quantise_group
from profiler.kernels.triton_linear import rotating_weights
from profiler.kernels.triton_rows import quantise, silu_mul, silu_mul_quantise
from profiler.kernels.triton_tiles import GROUP, PACKED_TURN
from profiler.point import OpShape

# Number format of a moe row -> what the tile loop calls it, and what its weights are stored in.
FORMATS: Final = {
    "bf16": ("plain", "bf16"),
    "fp16": ("plain", "fp16"),
    "fp8": ("plain", "fp8"),
    "w8a8": ("plain", "int8"),
    "fp8_block": ("block", "fp8"),
    "w4a16": ("int4", "int8"),
    "mxfp4": ("mxfp4", "int8"),
}
_FLOATS: Final = frozenset({"bf16", "fp16"})
_ONE_BYTE: Final = {"fp8": torch.float8_e4m3fn, "w8a8": torch.int8}

# Activations as a GEMM takes them: values, and scales where the format has some.
Scaled = tuple[torch.Tensor, torch.Tensor | None]


def prepare_moe(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of the expert layer; raises ``Unsupported`` for widths or shardings the format cannot have."""
    kind, stored = FORMATS[op.dtype]
    shard = ExpertShard.of(op, buffers.device)
    group, inter = PACKED_TURN.get(kind, GROUP), shard.inter
    if kind == "mxfp4":  # 2880 / 4 is no multiple of a turn: engines pad what tensor parallelism cuts
        inter += -inter % group
    if kind != "plain" and (shard.hidden % group or inter % group):
        raise Unsupported(f"groups of {group} do not divide hidden {shard.hidden} or inner width {inter}")
    if stored == "fp8":
        require_fp8(buffers.device)
    tokens = buffers.random((shard.num_tokens, shard.hidden), op.dtype if op.dtype in _FLOATS else "bf16")
    gate_up = _weights(op.dtype, buffers, (shard.experts, 2 * inter, shard.hidden), shard.read_frac)
    down = _weights(op.dtype, buffers, (shard.experts, shard.hidden, inter), shard.read_frac)
    enter, activate = _passes(op.dtype)
    multiply, source = GroupedGemm(shard.offsets), shard.tokens.to(torch.int32)
    weight = torch.full((len(source),), 1.0 / shard.topk, device=buffers.device)

    def launch(i: int) -> torch.Tensor:
        x, x_scale = enter(tokens)
        inner, inner_scale = activate(multiply(x, gate_up[i % len(gate_up)], x_scale=x_scale, source=source))
        return combine(multiply(inner, down[i % len(down)], x_scale=inner_scale, weight=weight), shard.places)

    return Prepared(launch, max(len(gate_up), len(down)))


def _weights(dtype: str, buffers: Buffers, shape: tuple[int, int, int], read_frac: float) -> list[ExpertWeights]:
    kind, stored = FORMATS[dtype]
    if dtype in _FLOATS:
        plain = buffers.rotating(shape, stored, read_frac=read_frac)
        return [ExpertWeights(kind=kind, values=values) for values in plain]
    pairs = rotating_weights(buffers, kind, stored, shape, read_frac=read_frac)
    return [ExpertWeights(kind=kind, values=values, scales=scales) for values, scales in pairs]


def _passes(dtype: str) -> tuple[Callable[[torch.Tensor], Scaled], Callable[[torch.Tensor], Scaled]]:
    """Return what is done to the tokens before the first GEMM, and to its result before the second."""
    if dtype == "fp8_block":
        return quantise_group, silu_mul_quantise_group
    if dtype in _ONE_BYTE:
        one_byte = _ONE_BYTE[dtype]
        return (lambda x: quantise(x, one_byte)), (lambda x: silu_mul_quantise(x, one_byte))
    return (lambda x: (x, None)), (lambda x: (silu_mul(x), None))
