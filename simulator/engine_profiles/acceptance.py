"""How many drafts of speculative decoding are accepted: one probability for all, or one share for each position.

A single number is the probability that a draft is right, given that those before it were: the first i are accepted with
its i-th power. A list states, for every position, in which share of steps the draft there was accepted, as vLLM logs it
("Per-position acceptance rate"). A draft counts only if those before it were right, so the shares cannot rise.
"""

from itertools import pairwise

Acceptance = float | tuple[float, ...]


def accepted_shares(acceptance: Acceptance, drafts: int) -> list[float]:
    """Probability, for each of ``drafts`` positions, that the drafts up to there are accepted."""
    if isinstance(acceptance, tuple):
        return list(acceptance)
    return [acceptance ** (position + 1) for position in range(drafts)]


def acceptance_fault(acceptance: Acceptance, drafts: int) -> str | None:
    """Say what is wrong with an acceptance that is stated for ``drafts`` positions; None where nothing is."""
    if isinstance(acceptance, float | int):
        return None if 0 <= acceptance <= 1 else f"is {acceptance}, must be 0 to 1"
    shown = ",".join(f"{share:g}" for share in acceptance)
    if len(acceptance) != drafts:
        return f"is {shown}: {len(acceptance)} shares for {drafts} drafts per step"
    if not all(0 <= share <= 1 for share in acceptance):
        return f"is {shown}, each must be 0 to 1"
    if any(later > earlier for earlier, later in pairwise(acceptance)):
        return f"is {shown}: a draft counts only if those before it were right, so the shares cannot rise"
    return None
