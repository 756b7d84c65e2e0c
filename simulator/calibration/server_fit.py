"""One server's constants and its factors by load from its runs, as far from the profile as the runs make likely."""

from collections.abc import Sequence

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.estimate import Estimate, estimate, slopes_at
from simulator.calibration.evidence import Evidence
from simulator.calibration.load_points import LEARNT, LoadKernel, load_points, load_unknowns
from simulator.calibration.posterior import Array
from simulator.calibration.replays import Replays
from simulator.calibration.unknowns import Unknown
from simulator.calibration.width import WIDTHS, likeliest_width, narrowed


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFit:
    """What was estimated; ``unknowns`` are the constants, then the loads, with errors as narrow as ``width`` says.

    Where ``width`` is none, the estimate is that of the narrowest server there is, to be shown and not to be used.
    """

    unknowns: tuple[Unknown, ...]
    width: float
    slopes: Array  # [numbers, unknowns], per error of each, at the profile as it is
    estimate: Estimate
    replays: Replays

    @property
    def constants(self) -> list[int]:
        """Return the places of the constants that were estimated."""
        return [place for place in self.estimate.kept if self.unknowns[place].load is None]


def fit_server(
    replays: Replays,
    evidence: Evidence,
    *,
    kernel: LoadKernel = LEARNT,
    slopes: Array | None = None,
    only: Sequence[int] | None = None,
) -> ServerFit:
    """Fit the unknowns of ``replays``, all of them constants, and factors by load; of ``only`` these constants alone.

    ``slopes`` are those of the constants where they are known. All runs must be predicted by the profile as it is.
    """
    kernel = kernel.of(replays.profile)
    count = len(replays.unknowns)
    loads = () if only is not None else load_unknowns(load_points(replays, kernel), kernel)
    everything = replays.with_unknowns((*replays.unknowns, *loads))
    zero = np.zeros(count + len(loads))
    middle = everything(zero)
    known = slopes is not None
    found = slopes_at(everything, zero, middle, range(count if known else 0, len(zero)) if only is None else only)
    if slopes is not None:
        found[:, :count] = slopes
    width = likeliest_width(middle - evidence.log_measured, found, evidence.covariance())
    narrow = width or min(other for other in WIDTHS if other)
    unknowns, found = narrowed(everything.unknowns, narrow), narrow * found
    everything = everything.with_unknowns(unknowns)
    return ServerFit(
        unknowns=unknowns,
        width=width,
        slopes=found,
        estimate=estimate(everything, unknowns, evidence, slopes=found, only=only),
        replays=everything,
    )
