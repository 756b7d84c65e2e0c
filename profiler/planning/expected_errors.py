"""How far a step of the user's model is expected to be mispriced once a budget is spent, before anything is measured.

What is not reached keeps the error of its present price: an earlier fit's interval, else the analytic model's. What is
reached takes the errors that the fewest points of a label have bought elsewhere: a size that is measured their median,
which is what a fit takes for its own points, the other sizes of its label their 90th percentile.
"""

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Final

import numpy as np

from costmodel.compare.step_errors import step_half_width
from costmodel.pricing.analytic_costs import LOG_HALF_WIDTH
from profiler.point import OpShape, cost_op
from profiles_db.manifest import SHARES, ShapeManifest

if TYPE_CHECKING:
    from costmodel.cost_model import CostModel

# Median and 90th percentile of |ln(predicted / measured)| at a label's other points when `apex fit` has the fewest it
# takes, as the plan chooses them: medians over the imported tables of H200, B200 and L40S, four trials each
# (`benchmarks/profiler_least.py`).
FEWEST_BUY: Final[Mapping[str, tuple[float, float]]] = {
    "gemm": (0.150, 0.356),
    "attention": (0.137, 0.476),
    "moe": (0.032, 0.123),
    "elementwise": (0.086, 0.361),
    "collective": (0.055, 0.186),
}
_WIDEST: Final = max(FEWEST_BUY.values(), key=max)  # of families without tables


def expected_errors(
    manifest: ShapeManifest, fitted: Set[OpShape], measured: Set[OpShape], costs: "CostModel | None"
) -> tuple[float, float]:
    """Return the errors of a prefill and a decode step, in natural log, that nine of ten steps stay below.

    ``fitted`` are the shapes of labels that a fit will hold, ``measured`` those that have a row; ``costs`` prices all
    others, None where the analytic model does.
    """
    widths: dict[str, list[float]] = {share: [] for share in SHARES}
    for family, table in manifest.shares.items():
        of_family = dict.fromkeys(SHARES, 0.0)
        for row in table.to_pylist():
            parts = {share: row.pop(share) for share in SHARES}
            op = OpShape.of(family, **row)
            width = present_half_width(op, costs)
            if op in fitted:  # a fit starts from an earlier one where that is nearer
                width = min(width, FEWEST_BUY.get(family, _WIDEST)[op not in measured])
            for share, part in parts.items():
                of_family[share] += part * width
        for share in SHARES:
            widths[share].append(of_family[share])
    prefill, decode = (step_half_width(widths[share]) for share in SHARES)
    return prefill, decode


def present_half_width(op: OpShape, costs: "CostModel | None") -> float:
    """Return the half-width, in natural log, of the 90 % interval that an op is priced with before it is measured."""
    priced = cost_op(op)
    assert priced is not None  # steps have no shares of a step
    if costs is None:
        return LOG_HALF_WIDTH[type(priced)]
    price = costs.predict(priced)
    return float(np.max(np.log(price.high_s / price.low_s))) / 2.0
