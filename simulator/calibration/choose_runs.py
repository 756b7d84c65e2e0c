"""The runs worth making: those after which least is unknown of all others, chosen before anything is measured.

A set of runs leaves each candidate's predicted numbers with a variance, by the simulator's own slopes and by what runs
of a plan share. The set is worth as much as it lowers their sum over all candidates, in deviations of a run's own
(I-optimality). Runs are added one by one, then swapped while that gains.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibration.evidence import covariance, own_variance
from simulator.calibration.posterior import Array

_MOST_SWAPS: Final = 50
_GAIN: Final = 1e-9
_TRAIT: Final = 1e9  # more than any set of runs lowers


def choose_runs(
    slopes: Array,
    plans: Sequence[str],
    metrics: Sequence[str],
    count: int,
    traits: Sequence[frozenset[str]] | None = None,
) -> list[int]:
    """Return ``count`` of the candidates, by place, in the order in which they tell most.

    ``slopes`` are [candidates, metrics, unknowns], per standard deviation of each unknown. ``traits`` of candidates
    come before information: as many different ones as possible are among the chosen.
    """
    names = np.array(plans)
    told = _Told(slopes, np.repeat(names, len(metrics)), np.tile(np.array(metrics), len(names)))

    def worth(chosen: Sequence[int]) -> float:
        held = len(frozenset().union(*(traits[place] for place in chosen))) if traits else 0
        return _TRAIT * held + told.by(chosen)

    chosen: list[int] = []
    for _ in range(min(count, len(names))):
        others = [place for place in range(len(names)) if place not in chosen]
        chosen.append(max(others, key=lambda place: worth([*chosen, place])))
    for _ in range(_MOST_SWAPS):
        swaps = [
            [*chosen[:place], other, *chosen[place + 1 :]]
            for place in range(len(chosen))
            for other in range(len(names))
            if other not in chosen
        ]
        best = max(swaps, key=worth, default=chosen)
        if worth(best) <= worth(chosen) + _GAIN:
            break
        chosen = best
    return chosen


class _Told:
    """What runs tell of all candidates: ``slopes`` [candidates, metrics, unknowns], plan and metric of each number."""

    def __init__(self, slopes: Array, plans: NDArray[np.str_], metrics: NDArray[np.str_]) -> None:
        self._count = slopes.shape[1]
        flat = slopes.reshape(-1, slopes.shape[2])
        own = own_variance(metrics)
        self._whole = flat @ flat.T + covariance(plans, metrics)  # of numbers as they would be measured
        # What a run says of others is all but its own noise; each number counts in deviations of that noise.
        self._shared = (self._whole - np.diag(own)) / np.sqrt(own)[:, None]

    def by(self, chosen: Sequence[int]) -> float:
        """Return by how much the chosen lower the variance of all numbers, each in its own deviations squared."""
        places = np.concatenate([np.arange(self._count) + self._count * place for place in chosen])
        root = np.linalg.cholesky(self._whole[np.ix_(places, places)])
        return float((np.linalg.solve(root, self._shared[:, places].T) ** 2).sum())
