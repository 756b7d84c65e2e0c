"""How unevenly tokens choose experts, and what that leaves to the heaviest of the ranks that share them.

``balanced``: every expert is chosen as often. ``power_law_<a>``: the i-th most popular expert in proportion to i^-a; a
token's experts are different ones. Ranks hold equal runs of experts whose popularity is in one fixed, random order. A
step waits for the rank with the most (token, expert) pairs: that rank is measured, imported (the tables of
aiconfigurator put it first) and priced.

An expert's chance to be among a token's ``k`` follows from exponential clocks that tick as often as it is popular, of
which the first k win: 1 - exp(-w t), with the t that makes the chances add up to k.
"""

from functools import lru_cache
from typing import Final

import numpy as np

from costmodel.ops.arrays import Array

BALANCED: Final = "balanced"
_PREFIX: Final = "power_law_"
_STEPS: Final = 80


def exponent_of(routing: str) -> float | None:
    """Return the exponent of a power law, 0 for balanced routing; None for what is neither."""
    if routing == BALANCED:
        return 0.0
    try:
        return float(routing.removeprefix(_PREFIX)) if routing.startswith(_PREFIX) else None
    except ValueError:
        return None


@lru_cache(maxsize=256)
def popularity(num_experts: int, routing: str) -> Array:
    """Return how popular each expert [experts] is, in their order over the ranks; the sum is 1."""
    place = np.random.default_rng(0).permutation(num_experts) + 1.0
    weight = place ** -(exponent_of(routing) or 0.0)
    return np.asarray(weight / weight.sum())


@lru_cache(maxsize=256)
def unevenness_left(num_experts: int, topk: int, ep: int, routing: str, copies: int) -> float:
    """Return the share of the heaviest rank's surplus that stays when ranks hold ``copies`` experts more, 0 to 1.

    Each copy goes to the expert whose holders have most pairs each, and all are dealt to equal ranks, the heaviest
    first to the lightest rank with room: what load balancers of experts do, with loads that they know exactly.
    """
    chances = _chances(popularity(num_experts, routing), topk)
    mean = chances.sum() / ep
    surplus = float(chances_on_heaviest(num_experts, topk, ep, routing).sum() - mean)
    if surplus <= 0.0:
        return 0.0
    holders = np.ones(num_experts)
    for _ in range(copies):
        holders[np.argmax(chances / holders)] += 1
    loads = np.repeat(chances / holders, holders.astype(int))
    room, ranks = np.full(ep, -(-len(loads) // ep)), np.zeros(ep)
    for load in np.sort(loads)[::-1]:
        rank = int(np.argmin(np.where(room > 0, ranks, np.inf)))
        ranks[rank] += load
        room[rank] -= 1
    return float(min(1.0, max(0.0, (ranks.max() - mean) / surplus)))


@lru_cache(maxsize=256)
def chances_on_heaviest(num_experts: int, topk: int, ep: int, routing: str) -> Array:
    """Return the chance of a token to choose each expert of the rank that gets most pairs."""
    chances = _chances(popularity(num_experts, routing), topk)
    local = -(-num_experts // ep)
    return max(np.split(chances, range(local, num_experts, local)), key=np.sum)


def _chances(weight: Array, topk: int) -> Array:
    """Chance of each expert to be among a token's; bisection over ln t, for the chances grow with t."""
    if topk >= len(weight):
        return np.ones_like(weight)
    low, high = np.log(topk), np.log(2.0 * len(weight) / weight.min())
    for _ in range(_STEPS):
        middle = (low + high) / 2
        is_below = -np.expm1(-weight * np.exp(middle)).sum() < topk
        low, high = (middle, high) if is_below else (low, middle)
    return np.asarray(-np.expm1(-weight * np.exp(low)))
