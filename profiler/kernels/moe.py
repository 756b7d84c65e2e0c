"""Routed experts of one layer on one rank in torch: gather, gate-up GEMM, SiLU-mul, down GEMM, weighted combine.

The rank is the one with the most pairs: it holds experts [0, E / ep) with an inner width of ``inter / tp`` and sees
every token of the group; pairs routed elsewhere cost it nothing. Experts run as one grouped GEMM where torch has one,
one by one on a CPU.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.kernels.routing import reached_frac, route
from profiler.kernels.torch_rows import silu_mul
from profiler.point import OpShape

# (x [pairs, k], w [experts, n, k]) -> [pairs, n] for one fixed routing.
GroupedMm = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def moe_kernels(op: OpShape, device: torch.device) -> Sequence[str]:
    """Return the label of torch's expert kernel for this format and device."""
    if op.dtype not in {"bf16", "fp16", "fp32"}:
        return ()
    if device.type == "cpu":
        return ("torch.expert_loop",)
    return ("torch.grouped_mm",) if op.dtype == "bf16" and _torch_grouped_mm() is not None else ()


def _torch_grouped_mm() -> Callable[..., torch.Tensor] | None:
    """Torch's grouped GEMM under its public name (2.10 on) or the one before."""
    return getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def expert_loop(offsets: torch.Tensor) -> GroupedMm:
    """Return a loop over experts: rows ``offsets[e-1]:offsets[e]`` times expert e."""
    ends = offsets.tolist()
    runs = [(e, start, end) for e, (start, end) in enumerate(pairwise([0, *ends])) if end > start]

    def multiply(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        parts = [F.linear(x[start:end], weights[expert]) for expert, start, end in runs]
        return torch.cat(parts) if parts else x.new_zeros((0, weights.shape[1]))

    return multiply


def torch_grouped(offsets: torch.Tensor) -> GroupedMm:
    """Return torch's grouped GEMM."""
    kernel = _torch_grouped_mm()
    assert kernel is not None
    return lambda x, w: kernel(x, w.transpose(-2, -1), offs=offsets)


def prepare_moe(op: OpShape, kernel: str, buffers: Buffers) -> Prepared:
    """Return the launch of the expert layer; raises ``Unsupported`` for a sharding that does not divide."""
    shard = ExpertShard.of(op, buffers.device)
    tokens = buffers.random((shard.num_tokens, shard.hidden), op.dtype)
    scale = torch.full((len(shard.tokens), 1), 1.0 / shard.topk, device=buffers.device, dtype=tokens.dtype)
    gate_up = buffers.rotating((shard.experts, 2 * shard.inter, shard.hidden), op.dtype, read_frac=shard.read_frac)
    down = buffers.rotating((shard.experts, shard.hidden, shard.inter), op.dtype, read_frac=shard.read_frac)
    grouped_mm = (expert_loop if kernel == "torch.expert_loop" else torch_grouped)(shard.offsets)

    def launch(i: int) -> torch.Tensor:
        inner = silu_mul(grouped_mm(tokens[shard.tokens], gate_up[i % len(gate_up)]))
        result = grouped_mm(inner, down[i % len(down)])
        return torch.zeros_like(tokens).index_add_(0, shard.tokens, result * scale)

    return Prepared(launch, max(len(gate_up), len(down)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertShard:
    """One rank's experts and the (token, expert) pairs routed to them, sorted by expert.

    ``tokens`` int64 [pairs]: the token of each pair. ``offsets`` int32 [experts]: the end of each expert's run.
    ``places`` int32 [tokens, topk]: where a token's pairs lie among these, -1 for those of other ranks.
    ``read_frac``: share of the experts that have a token.
    """

    num_tokens: int
    hidden: int
    inter: int
    topk: int
    experts: int
    tokens: torch.Tensor
    offsets: torch.Tensor
    places: torch.Tensor
    read_frac: float

    @classmethod
    def of(cls, op: OpShape, device: torch.device) -> "ExpertShard":
        """Route the tokens of ``op``; raises ``Unsupported`` for a sharding that does not divide."""
        shape = op.shape
        experts, tp, ep = shape["num_experts"], shape["tp"], shape["ep"]
        if experts % ep or shape["inter"] % tp:
            raise Unsupported(
                f"{experts} experts over ep={ep} and inner width {shape['inter']} over tp={tp} do not divide"
            )
        local = experts // ep
        ids = route(shape["num_tokens"], experts, shape["topk"], shape["routing"], seed=0, device=device, ep=ep)
        flat = ids.flatten()
        order = torch.argsort(flat, stable=True)
        order = order[flat[order] < local]
        places = torch.full_like(flat, -1, dtype=torch.int32)
        places[order] = torch.arange(len(order), dtype=torch.int32, device=device)
        return cls(
            num_tokens=shape["num_tokens"],
            hidden=shape["hidden"],
            inter=shape["inter"] // tp,
            topk=shape["topk"],
            experts=local,
            tokens=order // shape["topk"],
            offsets=torch.cumsum(torch.bincount(flat[order], minlength=local), 0).to(torch.int32),
            places=places.view_as(ids),
            read_frac=reached_frac(ids, local),
        )
