"""The plan space on a terminal: how many plans start, and for each who refuses some, the reasons and the plans."""

from typing import TYPE_CHECKING

from simulator.feasible.plan_space import MORE_AXES
from simulator.plan.refused import REFUSERS
from simulator.report.formats import counted
from simulator.report.search_answer import refusal_lines

if TYPE_CHECKING:
    from simulator.search.space import PlanSpace
    from simulator.serving import Serving


def space_table(space: "PlanSpace", serving: "Serving") -> str:
    """Say what is enumerated, who refuses what and why, and which axes nobody asked for."""
    enumerated = len(space.starts) + len(space.refused)
    lines = [
        f"{serving.model.name} on {serving.cluster.name} under {serving.profile.name}: "
        f"{counted(enumerated, 'plan')} enumerated, {len(space.starts)} can start",
        "",
        f"can start ({len(space.starts)}): {', '.join(space.starts) or 'none'}",
    ]
    for by, meaning in REFUSERS.items():
        refused = [(str(refusal.plan), refusal.reason) for refusal in space.refused if refusal.by == by]
        lines.append(f"refused by {by} ({len(refused)})" + (f": {meaning}" if refused else ""))
        lines += [f"  {line}" for line in refusal_lines(refused)]
    if space.left_out:
        lines += ["", "not asked for:", *(f"  --axes {name}: {MORE_AXES[name]}" for name in space.left_out)]
    return "\n".join(lines)
