"""Which experts tokens go to: uniform, or skewed by a power law.

``power_law_<a>``: expert i (in random order) is drawn with weight (i + 1)^-a; a token's top-k are drawn without
replacement (Gumbel top-k), as a router cannot pick one expert twice.

Few tokens reach more or fewer experts by chance: eight tokens with two of eight experts each reach six to eight, and a
kernel that reads six experts' weights takes three quarters of the time. So several routings are drawn, and the typical
one is measured.
"""

from typing import Final

import torch

from profiler.backend import Unsupported

_DRAWS: Final = 32
_MOST_DRAWN: Final = 1 << 18  # (token, expert) pairs over all draws: many tokens need no second draw


def route(
    num_tokens: int, num_experts: int, topk: int, routing: str, *, seed: int, device: torch.device
) -> torch.Tensor:
    """Return expert ids [num_tokens, topk]; ``balanced`` gives every expert the same load, up to rounding."""
    if topk > num_experts:
        raise Unsupported(f"topk {topk} exceeds {num_experts} experts")
    generator = torch.Generator().manual_seed(seed)
    if routing == "balanced":
        order = torch.randperm(num_experts, generator=generator)
        return order[torch.arange(num_tokens * topk) % num_experts].view(num_tokens, topk).to(device)
    prefix = "power_law_"
    if not routing.startswith(prefix):
        raise Unsupported(f"unknown routing {routing!r}, must be balanced or power_law_<exponent>")
    ranks = torch.randperm(num_experts, generator=generator) + 1
    weights = -float(routing[len(prefix) :]) * torch.log(ranks.double())
    draws = min(_DRAWS, max(_MOST_DRAWN // (num_tokens * num_experts), 1))
    uniform = torch.rand(draws, num_tokens, num_experts, dtype=torch.float64, generator=generator)
    ids = (weights - torch.log(-torch.log(uniform))).topk(topk, dim=-1).indices
    return ids[_typical(ids.flatten(1), num_experts)].to(device)


def _typical(drawn: torch.Tensor, num_experts: int) -> int:
    """Return which routing of [draws, pairs] reaches a usual number of experts, the fullest of them usually full."""
    loads = torch.zeros(len(drawn), num_experts, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
    distance = torch.zeros(len(drawn), dtype=torch.float64)
    for seen in ((loads > 0).sum(1).double(), loads.amax(1).double()):
        distance += (seen - seen.mean()).abs() / seen.mean()
    return int(distance.argmin())
