"""A plan of two pools: one computes prompts, the other decodes.

Text form: ``prefill.tp4+decode.dp2-tp2``, each side a plan as ``simulator.plan.plan`` reads it.
"""

from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.plan.plan import Plan, parse_plan

_SIDES: Final = ("prefill", "decode")
_HINT: Final = "for example prefill.tp4+decode.dp2-tp2"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """Layouts of the two pools; the devices of the prefill pool come first in the cluster."""

    prefill: Plan
    decode: Plan

    @property
    def num_devices(self) -> int:
        """Devices of both pools."""
        return self.prefill.num_devices + self.decode.num_devices

    def __str__(self) -> str:
        """Canonical text form; ``parse_layout`` reads it back."""
        return f"prefill.{self.prefill}+decode.{self.decode}"


def parse_layout(text: str) -> Plan | PoolPlan:
    """Read the text form of a plan, of one pool or of two; raises ``UserError`` naming the part that is wrong."""
    if "+" not in text and not text.strip().lower().startswith(_SIDES):
        return parse_plan(text)
    sides: dict[str, Plan] = {}
    for part in text.strip().lower().split("+"):
        name, dot, layout = part.strip().partition(".")
        if name not in _SIDES or not dot:
            raise UserError(f"plan {text!r}: part {part!r} is neither prefill.PLAN nor decode.PLAN", hint=_HINT)
        if name in sides:
            raise UserError(f"plan {text!r}: the {name} pool is stated a second time", hint=_HINT)
        sides[name] = parse_plan(layout)
    missing = [name for name in _SIDES if name not in sides]
    if missing:
        raise UserError(f"plan {text!r}: the {missing[0]} pool is missing", hint=_HINT)
    return PoolPlan(prefill=sides["prefill"], decode=sides["decode"])
