"""The plan space explained: which plans are enumerated, which of them could start, and who refuses the others and why.

Nothing is replayed: each plan is sized and priced as a search starts it.
"""

from collections.abc import Sequence
from typing import Any

from cluster_specs.lazy_dataclass import dataclass
from simulator.feasible.plan_space import MORE_AXES, Axes
from simulator.plan.refused import REFUSERS
from simulator.pools.layouts import Layout
from simulator.search.judging import plan_of, started
from simulator.search.search import candidates_of
from simulator.serving import Refusal, Serving
from simulator.workload.parts import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpace:
    """Plans that could start, plans that are refused, and the axes that nobody asked for."""

    starts: tuple[str, ...]
    refused: tuple[Refusal, ...]
    left_out: tuple[str, ...]  # of ``MORE_AXES``

    def to_json(self) -> dict[str, Any]:
        """Return the space as plain values, schema 1."""
        return {
            "schema": 1,
            "counts": {
                "enumerated": len(self.starts) + len(self.refused),
                "starts": len(self.starts),
                "refused": {by: sum(refusal.by == by for refusal in self.refused) for by in REFUSERS},
            },
            "starts": list(self.starts),
            "refused": [
                {"plan": str(refusal.plan), "by": refusal.by, "reason": refusal.reason} for refusal in self.refused
            ],
            "not_asked_for": list(self.left_out),
        }


def explain_space(serving: Serving, workload: Traffic, axes: Axes | None, plans: Sequence[Layout] | None) -> PlanSpace:
    """Start every plan that a search would simulate; raises ``UserError`` for nothing to search."""
    candidates, refused = candidates_of(serving, workload, axes, plans)
    begun = [(candidate, started(serving, candidate, workload)) for candidate in candidates]
    asked = axes.more if axes is not None else frozenset[str]()
    return PlanSpace(
        starts=tuple(str(plan_of(candidate)) for candidate, start in begun if not isinstance(start, Refusal)),
        refused=(*(start for _, start in begun if isinstance(start, Refusal)), *refused),
        left_out=() if plans is not None else tuple(name for name in MORE_AXES if name not in asked),
    )
