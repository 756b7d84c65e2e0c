"""The runs worth making: those that tell most of a profile's constants, chosen before anything is measured.

A set of runs is worth ln det(1 + slopes' covariance^-1 slopes), the information that they would add to what is known
(D-optimality), where slopes are the simulator's own. Runs are added one by one, then swapped while that gains.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibration.evidence import covariance
from simulator.calibration.posterior import Array

_MOST_SWAPS: Final = 50
_GAIN: Final = 1e-9
_TRAIT: Final = 1e6  # nats, more than any set of runs tells


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

    def worth(chosen: Sequence[int]) -> float:
        held = len(frozenset().union(*(traits[place] for place in chosen))) if traits else 0
        return _TRAIT * held + information(chosen, slopes, names, metrics)

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


def information(chosen: Sequence[int], slopes: Array, plans: NDArray[np.str_], metrics: Sequence[str]) -> float:
    """Return what the chosen candidates together tell, in nats."""
    count = len(metrics)
    own = slopes[list(chosen)].reshape(len(chosen) * count, -1)
    wide = covariance(np.repeat(plans[list(chosen)], count), np.tile(np.array(metrics), len(chosen)))
    gained = np.eye(own.shape[1]) + own.T @ np.linalg.solve(wide, own)
    return float(np.linalg.slogdet(gained)[1])
