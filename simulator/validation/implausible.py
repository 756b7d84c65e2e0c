"""Rules by which a measured point of a table is not believed; every one that breaks a rule is told, with the rule.

1. Implied arithmetic above a share of the dense peak: 2 x active parameters x tokens per second, both over the whole
   run (concurrency x (prompt + answer) tokens in TTFT + answer x TPOT) and over the prompt alone (its tokens in TTFT).
2. A concurrency above that which every engine version takes by default, with the real limit not recorded.
3. TPOT not monotone: further below that of a point that differs in a lower concurrency alone than repeats are apart.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.roofline import peak_flop_per_s
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """One row, as the rules see it; ``alike`` is what rows share that differ in their load alone."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int
    devices: int
    ttft_s: float
    tpot_s: float
    alike: tuple[str, ...]

    def implied_flop_per_s(self, active_parameters: int) -> float:
        """Return the arithmetic rate that its tokens need at least."""
        tokens = self.concurrency * (self.prompt_tokens + self.output_tokens)
        whole_s = self.ttft_s + self.output_tokens * self.tpot_s
        return 2.0 * active_parameters * max(self.prompt_tokens / self.ttft_s, tokens / whole_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a point may go."""

    most_of_peak_frac: float
    most_faster_frac: float
    most_concurrency: int


def share_of_peak(point: MeasuredPoint, model: ModelSpec, plan: Plan, cluster: ClusterSpec) -> float:
    """Return the share of the dense peak of its devices that a point implies."""
    scheme = plan.weight_dtype or model.quantisation or model.dtype
    peak = peak_flop_per_s(cluster.device, SCHEMES[scheme].compute, None) * point.devices
    return point.implied_flop_per_s(model.active_parameters()) / peak


def implausible(points: Sequence[MeasuredPoint], shares_of_peak: Sequence[float], limits: Limits) -> list[str | None]:
    """Return why each point of one server is not believed, None where nothing speaks against it."""
    tpots: dict[tuple[str, ...], dict[int, list[float]]] = {}
    for point in points:
        tpots.setdefault(point.alike, {}).setdefault(point.concurrency, []).append(point.tpot_s)
    return [
        _reason(point, share, limits, tpots[point.alike]) for point, share in zip(points, shares_of_peak, strict=True)
    ]


def _reason(point: MeasuredPoint, share: float, limits: Limits, tpots: Mapping[int, Sequence[float]]) -> str | None:
    if share > limits.most_of_peak_frac:
        return f"implies {share:.0%} of the dense peak"
    if point.concurrency > limits.most_concurrency:
        return f"concurrency {point.concurrency} with no recorded max_num_seqs"
    for concurrency, values in sorted(tpots.items()):
        median = float(np.median(values))
        if concurrency < point.concurrency and point.tpot_s < (1 - limits.most_faster_frac) * median:
            return f"TPOT {point.tpot_s * 1e3:.1f} ms, but {median * 1e3:.1f} ms at concurrency {concurrency}"
    return None
