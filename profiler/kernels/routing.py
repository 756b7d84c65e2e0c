"""Which experts tokens go to: uniform, or skewed by a power law (`costmodel.ops.expert_routing`).

A token's top-k are drawn without replacement (Gumbel top-k), as a router cannot pick one expert twice.

Few tokens reach more or fewer experts by chance: eight tokens with two of eight experts each reach six to eight, and a
kernel that reads six experts' weights takes three quarters of the time. So several routings are drawn, and the typical
one is measured.
"""

from typing import Final

import numpy as np
import torch

from costmodel.ops.expert_routing import BALANCED, exponent_of, popularity
from profiler.backend import Unsupported

_DRAWS: Final = 32
_MOST_DRAWN: Final = 1 << 18  # (token, expert) pairs over all draws: many tokens need no second draw


def route(
    num_tokens: int, num_experts: int, topk: int, routing: str, *, seed: int, device: torch.device, ep: int = 1
) -> torch.Tensor:
    """Return expert ids [num_tokens, topk], those of the heaviest of ``ep`` ranks first.

    ``balanced`` gives every expert and every rank the same load, up to rounding.
    """
    if topk > num_experts:
        raise Unsupported(f"topk {topk} exceeds {num_experts} experts")
    if exponent_of(routing) is None:
        raise Unsupported(f"unknown routing {routing!r}, must be balanced or power_law_<exponent>")
    generator = torch.Generator().manual_seed(seed)
    local = num_experts // ep
    if routing == BALANCED:
        # Pairs go to the ranks by turns, and on each to its experts in a random order.
        order = torch.stack([local * rank + torch.randperm(local, generator=generator) for rank in range(ep)])
        turn = order.T.flatten()
        return turn[torch.arange(num_tokens * topk) % num_experts].view(num_tokens, topk).to(device)
    weights = torch.from_numpy(np.log(popularity(num_experts, routing)))
    draws = min(_DRAWS, max(_MOST_DRAWN // (num_tokens * num_experts), 1))
    uniform = torch.rand(draws, num_tokens, num_experts, dtype=torch.float64, generator=generator)
    ids = (weights - torch.log(-torch.log(uniform))).topk(topk, dim=-1).indices
    ids = ids[_typical(ids.flatten(1), num_experts)]
    pairs = torch.bincount(ids.flatten(), minlength=num_experts).view(ep, local).sum(1)
    return ((ids - local * int(pairs.argmax())) % num_experts).to(device)


def _typical(drawn: torch.Tensor, num_experts: int) -> int:
    """Return which routing of [draws, pairs] reaches a usual number of experts, the fullest of them usually full."""
    loads = torch.zeros(len(drawn), num_experts, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
    distance = torch.zeros(len(drawn), dtype=torch.float64)
    for seen in ((loads > 0).sum(1).double(), loads.amax(1).double()):
        distance += (seen - seen.mean()).abs() / seen.mean()
    return int(distance.argmin())


def reached_frac(ids: torch.Tensor, experts: int) -> float:
    """Return the share of the first ``experts`` that have a token: a call reads the weights of no others."""
    loads = torch.bincount(ids[ids < experts], minlength=experts)
    return max(int(loads.count_nonzero()), 1) / experts
