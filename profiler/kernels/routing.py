"""Which experts tokens go to: uniform, or skewed by a power law.

``power_law_<a>``: expert i (in random order) is drawn with weight (i + 1)^-a; a token's top-k are drawn without
replacement (Gumbel top-k), as a router cannot pick one expert twice.
"""

import torch

from profiler.backend import Unsupported


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
    noise = -torch.log(-torch.log(torch.rand(num_tokens, num_experts, dtype=torch.float64, generator=generator)))
    return (weights + noise).topk(topk, dim=-1).indices.to(device)
