"""Prepared curves and surfaces: exact at their points, log-linear between, never wild beyond."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.pricing.curves import Curve, CurvePoints
from costmodel.pricing.price_points import risen, with_sub_points
from costmodel.pricing.surfaces import Surface, SurfaceGrid

X = np.array([1.0, 3.0, 10.0, 100.0])
Y = np.array([2.0, 20.0, 50.0])


def curve(latency_s: np.ndarray) -> Curve:
    ones = np.ones(len(X))
    return Curve(
        CurvePoints(
            position=X,
            x=X,
            latency_s=latency_s,
            power_w=100 * ones,
            source=np.zeros(len(X), dtype=np.int8),
            log_half_width=0.01 * ones,
            source_between=np.ones(len(X), dtype=np.int8),
            log_half_width_between=0.1 * ones,
        )
    )


def surface(latency_s: np.ndarray) -> Surface:
    ones = np.ones_like(latency_s)
    return Surface(
        SurfaceGrid(
            x=X,
            y=Y,
            latency_s=latency_s,
            power_w=100 * ones,
            source=np.zeros(ones.shape, dtype=np.int8),
            log_half_width=0.01 * ones,
            source_between=np.ones(ones.shape, dtype=np.int8),
            log_half_width_between=0.1 * ones,
        )
    )


@given(latency_s=st.lists(st.floats(1e-6, 1.0), min_size=4, max_size=4))
def test_points_are_verbatim_and_the_rest_lies_between_its_neighbours(latency_s: list[float]) -> None:
    """A point comes back to the last bit with its own source; between two points time is between theirs."""
    values = np.array(latency_s)
    prepared = curve(values)
    at = prepared.predict(X)
    assert np.array_equal(at.latency_s, values)
    assert at.source.tolist() == [0] * 4
    between = prepared.predict(np.array([2.0, 5.0, 30.0]))
    assert np.all(between.latency_s >= np.minimum(values[:-1], values[1:]) * (1 - 1e-12))
    assert np.all(between.latency_s <= np.maximum(values[:-1], values[1:]) * (1 + 1e-12))
    assert between.source.tolist() == [1] * 3


def test_power_laws_are_met_exactly_everywhere() -> None:
    """A power of 0.7 is a straight line in logs: exact inside and beyond; below the first point it is the first."""
    prepared = curve(X**0.7)
    x = np.array([1.5, 7.0, 99.0, 1e4])
    assert prepared.predict(x).latency_s == pytest.approx(x**0.7)
    assert prepared.predict(np.array(0.1)).latency_s == 1.0


def test_intervals_and_energy_follow_the_latency() -> None:
    """Low and high are the latency over and times e to the half-width; energy is power times latency."""
    found = curve(X).predict(np.array([3.0, 5.0]))
    assert np.log(found.high_s / found.latency_s) == pytest.approx([0.01, 0.1])
    assert np.log(found.latency_s / found.low_s) == pytest.approx([0.01, 0.1])
    assert found.energy_j == pytest.approx(100 * found.latency_s)


@given(
    latency_s=st.lists(st.floats(1e-6, 1.0), min_size=12, max_size=12),
    x=st.floats(1.0, 100.0),
    y=st.floats(2.0, 50.0),
)
def test_a_surface_is_verbatim_at_its_points_and_bounded_inside_a_cell(
    latency_s: list[float], x: float, y: float
) -> None:
    """Corners come back to the last bit; inside a cell time is between its corners'."""
    values = np.array(latency_s).reshape(4, 3)
    prepared = surface(values)
    grid_x, grid_y = np.meshgrid(X, Y, indexing="ij")
    at = prepared.predict(grid_x, grid_y)
    assert np.array_equal(at.latency_s, values)
    assert np.all(at.source == 0)
    column = min(int(np.searchsorted(X, x, side="right")) - 1, 2)
    row = min(int(np.searchsorted(Y, y, side="right")) - 1, 1)
    corners = values[column : column + 2, row : row + 2]
    inside = prepared.predict(np.array(x), np.array(y)).latency_s
    assert corners.min() * (1 - 1e-9) <= inside <= corners.max() * (1 + 1e-9)


@given(
    knots=st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3),
    others=st.lists(st.floats(0.1, 10.0), min_size=6, max_size=6),
)
def test_raising_keeps_rising_knots_and_makes_the_rest_rise(knots: list[float], others: list[float]) -> None:
    """Knots that rise stay; everything between them rises too."""
    values = np.array(others)
    is_knot = np.array([True, False, True, False, False, True])
    values[is_knot] = np.sort(knots)
    found = risen(values, is_knot)
    assert np.array_equal(found[is_knot], values[is_knot])
    assert np.all(np.diff(found) >= 0)


def test_prepared_sizes_contain_the_knots_and_reach_beyond_them() -> None:
    """Knots are kept to the last bit; sizes go down to the least asked and up by the octaves asked."""
    x = with_sub_points(np.array([7.0, 33.0, 1000.0]), low=1.0, octaves_beyond=4)
    assert set(x) >= {7.0, 33.0, 1000.0}
    assert x[0] == 1.0
    assert x[-1] == pytest.approx(16000.0)
    assert np.all(np.diff(x) > 0)
