"""How far apart the slots of vendor sweeps start: one number of seconds, for each server learnt from the others.

Their clients are unknown and their lengths fixed, so that slots that start together march in waves. The number is the
one of a few that leaves the smallest mean |log(predicted / measured)| of TTFT, every server with the same weight.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.fidelity.left_out import log_errors, sample
from benchmarks.fidelity.replay import Point, Variant, replay
from benchmarks.fidelity.rows import Row
from simulator.calibration.evidence import TTFT

SPREADS_S: Final = (0, 1, 3, 10, 30)


def learn_starts(rows: Sequence[Row], *, workers: int = 2) -> dict[str, int]:
    """Return the seconds within which the slots of each server start, by its name, from all others of ``rows``."""
    names = list(dict.fromkeys(row.server.name for row in rows))
    variants = [
        Variant(name=str(spread), clients=dict.fromkeys(names, starting_within(spread))) for spread in SPREADS_S
    ]
    replayed = replay(sample(rows), variants, workers=workers)
    misses = np.array([[_miss(replayed[variant.name], name) for name in names] for variant in variants])
    return {
        name: SPREADS_S[int(np.argmin(np.delete(misses, index, axis=1).mean(axis=1)))]
        for index, name in enumerate(names)
    }


def _miss(points: Sequence[Point], server: str) -> float:
    own = [point for point in points if point.row.server.name == server]
    return float(np.abs(log_errors(own, TTFT)).mean())


def starting_within(seconds: int) -> str:
    """Return what is appended to a closed loop so that its slots start within so many seconds."""
    return f",spread_s={seconds}" if seconds else ""
