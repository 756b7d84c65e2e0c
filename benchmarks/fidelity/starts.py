"""How far apart the slots of vendor sweeps start: one number of seconds, for each server learnt from the others.

Their clients are unknown and their lengths fixed, so that slots that start together march in waves. The number is the
one of a few that leaves the smallest mean |log(predicted / measured)| of TTFT, every server with the same weight.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.fidelity.left_out import log_errors, sample, trusted
from benchmarks.fidelity.replay import Point, Row, Variant, replay_groups
from benchmarks.fidelity.servers.server import ServingGroup

SPREADS_S: Final = (0, 1, 3, 10, 30)


def learn_starts(rows: Sequence[Row], groups: Sequence[ServingGroup], *, workers: int = 2) -> dict[str, int]:
    """Return the seconds within which the slots of each of ``groups`` start, by its name, from all others."""
    variants = [
        Variant(name=str(spread), clients={group.name: starting_within(spread) for group in groups})
        for spread in SPREADS_S
    ]
    replayed = replay_groups(sample(rows, groups), groups, variants, workers=workers)
    misses = np.array([[_miss(replayed[variant.name], group.name) for group in groups] for variant in variants])
    return {
        group.name: SPREADS_S[int(np.argmin(np.delete(misses, index, axis=1).mean(axis=1)))]
        for index, group in enumerate(groups)
    }


def _miss(points: Sequence[Point], name: str) -> float:
    own = [point for point in trusted(points) if point.group.name == name]
    return float(np.abs(log_errors(own, "ttft")).mean())


def starting_within(seconds: int) -> str:
    """Return what is appended to a closed loop so that its slots start within so many seconds."""
    return f",spread_s={seconds}" if seconds else ""
