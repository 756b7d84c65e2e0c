"""What a cost model answers, and the one protocol every cost model follows."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Op

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec
    from costmodel.power_model import PowerModel


class Source(IntEnum):
    """Where a predicted number comes from, best first."""

    MEASURED = 0  # this very point was measured
    FITTED = 1  # interpolated inside the measured domain
    BORROWED = 2  # utilisation of the nearest measured shape
    EXTRAPOLATED = 3  # outside the measured domain, by the named policy
    ANALYTIC = 4  # no measurement: roofline with calibrated constants


@dataclass(frozen=True, slots=True)
class Prediction:
    """Latency per call with a 90 % interval; all arrays have the op's broadcast shape.

    ``energy_j`` is the energy of one device per call (NaN where unknown); ``source`` holds ``Source`` codes.
    """

    latency_s: NDArray[np.float64]
    low_s: NDArray[np.float64]
    high_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    source: NDArray[np.int8]


def sum_predictions(parts: Sequence[Prediction]) -> Prediction:
    """Add parts that run one after the other; their errors count as fully correlated, the worst source wins."""
    first, *rest = parts
    latency_s, low_s, high_s, energy_j, source = (
        first.latency_s,
        first.low_s,
        first.high_s,
        first.energy_j,
        first.source,
    )
    for part in rest:
        latency_s = latency_s + part.latency_s
        low_s, high_s = low_s + part.low_s, high_s + part.high_s
        energy_j = energy_j + part.energy_j
        source = np.maximum(source, part.source)
    return Prediction(latency_s=latency_s, low_s=low_s, high_s=high_s, energy_j=energy_j, source=source)


class CostModel(Protocol):
    """Prices ops on one cluster at one clock."""

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster the ops run on."""

    @property
    def clock_mhz(self) -> float | None:
        """Locked SM clock, None when unlocked."""

    @property
    def power(self) -> PowerModel:
        """What the joules of prices follow from."""

    @property
    def origin(self) -> str:
        """Say in a few words what the prices rest on."""

    @property
    def frameworks(self) -> frozenset[str]:
        """Frameworks whose kernels the prices were measured on, without their versions; none where none was."""

    def outside(self) -> str:
        """Say how many of the prices asked so far were not interpolated from measurements; empty when all were."""

    def includes_quantise(self, dtype: str) -> bool:
        """Whether GEMM prices of ``dtype`` include quantising the activations."""

    def of_engine(self, engine: str) -> CostModel:
        """Return the prices of an engine, whose kernels may have been measured apart; raises ``UserError``."""

    def predict(self, op: Op) -> Prediction:
        """Price ``op``; raises ``UserError`` where the out-of-domain policy is ``raise``."""
