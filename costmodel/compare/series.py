"""What a plot of a comparison draws: measured points and the fitted curve through them."""

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A fitted curve with its interval; all arrays are [points]."""

    x: Array
    y: Array
    low: Array
    high: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a legend: measured points and, where there is a fit, the curve through them.

    ``held_out`` is what the fit says of each point without it, NaN where it says nothing.
    """

    label: str
    x: Array
    y: Array
    band: Band | None = None
    held_out: Array | None = None
