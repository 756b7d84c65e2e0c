"""Which points of a run get their energy measured: a share, a number per clock, no more over many runs."""

import pytest

pytest.importorskip("torch", reason="a session measures with torch")

from profiler.point import OpShape, Point
from profiler.request import ENERGY_POINTS, ProfileRequest
from profiler.session import _energy_choice


def points(count):
    """GEMMs of many sizes at no locked clock."""
    ops = (
        OpShape.of("gemm", dtype="bf16", m=m, n=64, k=64, scaling="none", quantise=False) for m in range(1, count + 1)
    )
    return [Point(op=op, device="x", backend="b", launch="graph", cache="cold") for op in ops]


@pytest.mark.parametrize(("energy", "expected"), [("none", 0), ("all", 2000), ("some", ENERGY_POINTS)])
def test_none_some_and_all_mean_what_they_say(tmp_path, energy, expected):
    """No point, all of them, or as many as a power model needs."""
    wants = _energy_choice(ProfileRequest(db=tmp_path, energy=energy), 1, {})
    assert sum(map(wants, points(2000))) == expected


@pytest.mark.parametrize(("stored", "left"), [(40, ENERGY_POINTS - 40), (ENERGY_POINTS, 0), (500, 0)])
def test_what_earlier_runs_measured_counts(tmp_path, stored, left):
    """A resumed run measures what is missing, also at another clock from the start."""
    wants = _energy_choice(ProfileRequest(db=tmp_path, energy="some"), 1, {None: stored})
    assert sum(map(wants, points(2000))) == left
    assert sum(wants(point.at(1410.0)) for point in points(2000)) == ENERGY_POINTS
