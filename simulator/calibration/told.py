"""Which constants a set of runs can tell, judged by the simulator's own slopes before anything is measured.

A constant is told where the runs would shrink its error by a tenth or more. Of constants that move all runs alike, the
one known least stands for all: the others are left at the profile's value, and each is named with what it could not be
told apart from.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.posterior import Array, moves_covariance

MOST_LEFT: Final = 0.9  # of a constant's error
_FELT: Final = 0.5  # whitened length of the slopes of a constant that runs feel at all
_ALIKE: Final = 0.7  # cosine of the slopes of two constants that runs confuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Untold:
    """A constant that stays as it is: by place, with the place of the one it is confused with, if there is one."""

    place: int
    like: int | None


def told(slopes: Array, *, most: int | None = None, loads: Sequence[int] = ()) -> list[int]:
    """Return the constants, by place, that whitened ``slopes`` [numbers, constants] tell; at most ``most``.

    ``loads`` are places of what is no constant but a correction by load: it is kept, and explains what it explains.
    """
    constants = [place for place in range(slopes.shape[1]) if place not in loads]
    while constants:
        left = np.sqrt(np.diag(moves_covariance(slopes[:, [*constants, *loads]])))[: len(constants)]
        worst = int(np.argmax(left))
        if left[worst] <= MOST_LEFT and (most is None or len(constants) <= most):
            break
        del constants[worst]
    return sorted([*constants, *loads])


def untold(slopes: Array, kept: list[int]) -> list[Untold]:
    """Return every other constant, with the told one whose effects on the runs are nearest to its own."""
    lengths = np.linalg.norm(slopes, axis=0)
    found = []
    for place in range(slopes.shape[1]):
        if place in kept:
            continue
        cosines = (
            {other: abs(slopes[:, place] @ slopes[:, other]) / (lengths[place] * lengths[other]) for other in kept}
            if lengths[place] > _FELT
            else {}
        )
        nearest = max(cosines, key=lambda other: cosines[other], default=None)
        found.append(Untold(place=place, like=nearest if nearest is not None and cosines[nearest] >= _ALIKE else None))
    return found
