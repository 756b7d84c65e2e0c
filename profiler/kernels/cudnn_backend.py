"""cuDNN's attention for whole prompts on Hopper and later: what every CUDA torch has that is built for these devices.

torch's own flash attention is FlashAttention 2, which uses neither asynchronous matrix instructions nor tensor memory;
cuDNN's does, as FlashAttention 3 and FlashInfer's kernels do. So its times stand nearest to theirs where no engine is
installed. cuDNN's causal mask begins at the first key: chunks behind a prefix are not measured on it.
"""

from collections.abc import Sequence
from typing import Final

import torch

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.point import OpShape

CUDNN_ATTENTION: Final = "torch.cudnn_attention"
FIRST_CAPABILITY: Final = (9, 0)
_HEAD_DIMS: Final = 8  # in multiples of


@dataclass(frozen=True, slots=True)
class CudnnCall(Prepared):
    """A call with its operands [prompts, heads, tokens, d]: queries, and keys with values in turn."""

    queries: torch.Tensor
    sides: list[tuple[torch.Tensor, torch.Tensor]]


class CudnnBackend:
    """cuDNN through torch's operator."""

    name = "cudnn"

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return its one label for whole prompts of 16-bit attention."""
        if op.family != "attention" or op.dtype not in {"bf16", "fp16"} or op.shape["kv_dtype"] != op.dtype:
            return ()
        shape = op.shape
        is_whole = shape["num_prefill"] > 0 and not shape["num_decode"] and shape["prefill_q"] == shape["prefill_kv"]
        is_plain = shape["variant"] == "gqa" and not shape["window"]
        return (CUDNN_ATTENTION,) if is_whole and is_plain else ()

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> CudnnCall:  # noqa: ARG002 - one kernel
        """Allocate operands, prompts as engines store them [prompts, tokens, heads, d], and return the launch."""
        shape = op.shape
        if shape["num_heads"] % shape["num_kv_heads"] or shape["head_dim"] % _HEAD_DIMS:
            heads = f"{shape['num_heads']} query heads over {shape['num_kv_heads']} KV heads"
            raise Unsupported(f"cuDNN runs no {heads} of {shape['head_dim']} elements")
        count, tokens, head_dim = shape["num_prefill"], shape["prefill_q"], shape["head_dim"]
        queries = buffers.random((count, tokens, shape["num_heads"], head_dim), op.dtype).transpose(1, 2)
        pairs = buffers.rotating((2, count, tokens, shape["num_kv_heads"], head_dim), op.dtype)
        sides = [(pair[0].transpose(1, 2), pair[1].transpose(1, 2)) for pair in pairs]
        attend = torch.ops.aten._scaled_dot_product_cudnn_attention  # noqa: SLF001 - the operator behind SDPA

        def launch(i: int) -> object:
            keys, values = sides[i % len(sides)]
            # No bias, no log-sums, no dropout, causal, no debug mask.
            return attend(queries, keys, values, None, False, 0.0, True, False)[0]

        return CudnnCall(launch, len(sides), queries, sides)
