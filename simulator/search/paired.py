"""How sure it is that one plan of a search beats another, though each is known less well than they differ.

Two plans of one search run the same kernels under the same engine on the same machines: what is wrong with one is wrong
with the other. For each source of error that they share, both replay the workload with that source alone at its slow
end. The difference of what it does to them,

    d = ln(b_slow / b) - ln(a_slow / a)

is what is left of it in their ratio; the sources are independent, so that the half width of ln(b / a) is the root of
their sum of squares. What servers differ in beside prices and constants has a part that is each plan's own
(``own_step_frac``, ``own_first_token_frac`` of the profile): it counts twice, once for each plan. Joules share what is
wrong with the device's power: two plans at one clock hardly differ in it, a plan at a lower clock does by all that the
law of voltage and clock is off.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Final

from cluster_specs.lazy_dataclass import dataclass
from profiles_db.collective_kinds import COLLECTIVE_KINDS
from simulator.errors import EngineLimitError
from simulator.results.objective import Metrics, Objective, Slo, read_metric
from simulator.serving import Serving
from simulator.simulate import SimulatedPlan, slowed
from simulator.steps.compiled_plan import CompiledPlan
from simulator.steps.step_ends import AWAKE_POWER, ENGINE, SPREAD, VOLTAGE, WORK_ENERGY
from simulator.workload.workload import Workload

_HALF_WIDTH_SIGMAS: Final = NormalDist().inv_cdf(0.95)
_ATTENTION: Final = frozenset({"attention", "scan"})
_PRODUCTS: Final = frozenset({"gemm", "moe"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """A plan against the best one by one metric; ``ratio`` is its value over the best plan's."""

    metric: str
    ratio: float
    ratio_low: float
    ratio_high: float
    best_is_better_frac: float  # probability that the best plan is better

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the JSON of a search has them for each plan compared."""
        return {
            "metric": self.metric,
            "ratio": self.ratio,
            "ratio_interval": [self.ratio_low, self.ratio_high],
            "best_is_better_frac": self.best_is_better_frac,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What each source of error does to a plan's metric, as the logarithm of the ratio to its best estimate."""

    value: float
    shared: Mapping[str, float]
    own: float  # of the part of the servers' spread that other plans do not share


def effects(
    serving: Serving, result: SimulatedPlan, workload: Workload, metric: str, slo: Slo | None = None
) -> Effects | None:
    """Replay a plan once per source of error; None for a metric that is unknown or not positive."""
    value = read_metric(result.metrics, metric)
    if value is None or value <= 0:
        return None
    compiled = result.start.compiled
    spread = compiled.spread
    shared = {}
    for name, only in _sources(compiled, metric).items():
        try:
            slow = read_metric(slowed(serving, result.start, workload, slo, only=only, of={metric}), metric)
        except EngineLimitError:
            return None
        if slow is None or slow <= 0:
            return None
        shared[name] = math.log(slow / value)
    steps = shared.pop(SPREAD, 0.0)
    first = _first_token(result.metrics, metric, spread.first_token_frac)
    own_steps = _share(spread.own_step_frac, spread.step_frac)
    own_first = _share(spread.own_first_token_frac, spread.first_token_frac)
    shared["steps of the server"] = steps * math.sqrt(1 - own_steps**2)
    shared["first token of the server"] = first * math.sqrt(1 - own_first**2)
    return Effects(value=value, shared=shared, own=math.hypot(steps * own_steps, first * own_first))


def versus(best: Effects, other: Effects, objective: Objective) -> Versus:
    """Compare a plan with the best one."""
    ratio = other.value / best.value
    sources = {**best.shared, **other.shared}
    differences = (other.shared.get(name, 0.0) - best.shared.get(name, 0.0) for name in sources)
    width = math.hypot(best.own, other.own, *differences)
    margin = math.log(ratio) if objective.less_is_better else -math.log(ratio)
    if width:
        is_better = NormalDist().cdf(margin * _HALF_WIDTH_SIGMAS / width)
    else:
        is_better = 0.5 if margin == 0 else float(margin > 0)
    return Versus(
        metric=objective.path,
        ratio=ratio,
        ratio_low=ratio * math.exp(-width),
        ratio_high=ratio * math.exp(width),
        best_is_better_frac=is_better,
    )


def _sources(compiled: CompiledPlan, metric: str) -> dict[str, frozenset[str]]:
    """Name the sources of error of a plan and what each is made of; prices of like ops are off together.

    What is known of a device's power concerns joules alone.
    """
    labels = {name for stage in compiled.stages for name in stage.labels()}
    transfers = labels & set(COLLECTIVE_KINDS)
    groups = {
        "products": labels & _PRODUCTS,
        "attention": labels & _ATTENTION,
        "transfers": transfers,
        "small ops": labels - _PRODUCTS - _ATTENTION - transfers,
        ENGINE: {ENGINE},
        SPREAD: {SPREAD} if compiled.spread.step_frac else set(),
        **({name: {name} for name in (AWAKE_POWER, WORK_ENERGY, VOLTAGE)} if metric.startswith("energy_j") else {}),
    }
    return {name: frozenset(group) for name, group in groups.items() if group}


def _first_token(metrics: Metrics, metric: str, frac: float) -> float:
    """Return what a late first token alone does to a metric: see `simulator.results.interval`."""
    name, _, statistic = metric.partition(".")
    ttft_s, value = read_metric(metrics, f"ttft_s.{statistic}"), read_metric(metrics, metric)
    if name not in {"ttft_s", "e2e_s"} or not ttft_s or not value:
        return 0.0
    return math.log1p(frac * ttft_s / value)


def _share(own: float, whole: float) -> float:
    """Return the part of a relative half width, in logarithms."""
    return math.log1p(own) / math.log1p(whole) if whole else 0.0
