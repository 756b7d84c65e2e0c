"""Which stages a campaign runs, in which order, and how long each may take: ``self_test,timers=40s,profile``."""

from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiler.duration import parse_duration_s

# What a second buys: instruments and known quantities, the tests of what is then timed, the timer beside a peer;
# kernels of which tables hold absolute times, then what no table holds; whole steps beside the sum of their kernels;
# the joules and clocks that a power model needs. The adaptive profile takes what is left.
_CAPS_S: Final[dict[str, int | None]] = {
    "machine": 10,
    "self_test": 20,
    "tests": 45,
    "timers": 30,
    "products": 80,
    "formats": 50,
    "small_ops": 35,
    "attention": 65,
    "anchors": 60,
    "joules": 115,
    "clocks": 20,
    "profile": None,
}
STAGES: Final = tuple(_CAPS_S)
DEFAULT_STAGES: Final = ",".join(name if cap is None else f"{name}={cap}s" for name, cap in _CAPS_S.items())
# Stages that measure lists of points, of which families may be chosen.
LISTED: Final = ("products", "formats", "small_ops", "attention", "joules", "profile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage; without a cap it may take all that is left."""

    name: str
    cap_s: float | None = None


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Read the list; raises ``UserError`` for a stage that is unknown or there twice, and for a cap that is none."""
    hint = f"for example {DEFAULT_STAGES}"
    stages: list[Stage] = []
    for part in text.split(","):
        name, has_cap, cap = (word.strip() for word in part.partition("="))
        if name not in STAGES:
            raise UserError(f"--stages: {name!r} is not among {', '.join(STAGES)}", hint=hint)
        if name in (stage.name for stage in stages):
            raise UserError(f"--stages: {name} is there twice", hint=hint)
        cap_s = parse_duration_s(cap, f"--stages {name}") if has_cap else None
        stages.append(Stage(name=name, cap_s=cap_s))
    return tuple(stages)
