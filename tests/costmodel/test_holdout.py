"""Held-out error and intervals: they must not peek, and they must cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from costmodel.cost_model import Source
from costmodel.fit_file.contents import Artefact
from costmodel.fitted.held_out import QUESTIONS, conformal_half_width
from costmodel.fitted.measured_rows import MeasuredRows
from costmodel.fitting.build_knots import build_knots, fill_from_neighbours
from costmodel.fitting.holdout import held_out_errors
from costmodel.fitting.intervals import summarise, with_intervals
from costmodel.ops.label import Label


def noisy_rows(noise: float, seed: int, *, shapes: int = 40, points: int = 16) -> MeasuredRows:
    """GEMM-like rows: exact reference times multiplied by lognormal noise."""
    rng = np.random.default_rng(seed)
    m = np.tile(2.0 ** np.arange(points), shapes)
    n = np.repeat(2.0 ** (6 + np.arange(shapes) % 8), points)
    k = np.repeat(2.0 ** (6 + np.arange(shapes) // 8), points)
    flop_s, bytes_s = 2 * m * n * k / 1e12, (m * k + n * k + m * n) / 1e9
    latency_s = (2e-6 + np.hypot(flop_s / 0.8, bytes_s / 0.8)) * np.exp(rng.normal(0, noise, len(m)))
    return MeasuredRows(
        family="gemm",
        features=("n", "k"),
        label=np.full(len(m), "bf16|aligned"),
        shape=np.column_stack([n, k]),
        x=m,
        y=np.ones_like(m),
        latency_s=latency_s,
        flop_s=flop_s,
        bytes_s=bytes_s,
        efficiency={"bf16|aligned": (0.8, 0.8)},
        is_estimate=np.zeros(len(m), dtype=bool),
    )


def test_without_noise_nothing_held_out_is_missed() -> None:
    """A machine that is exactly its reference is predicted exactly, whatever was left out."""
    rows = noisy_rows(0.0, 0)
    errors = held_out_errors(rows, build_knots(rows))
    for question in QUESTIONS:
        assert np.all(np.abs(errors[question].error) < 1e-3) or np.median(np.abs(errors[question].error)) < 1e-3
    assert not len(errors["sibling"].error), "a product of another (n, k) is no sibling"


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_errors_grow_with_noise_and_intervals_cover_nine_in_ten(noise: float) -> None:
    """Median error is near the noise of three points; coverage on shapes not calibrated on is 90 % within sampling."""
    rows = noisy_rows(noise, 1)
    knots = build_knots(rows)
    errors = held_out_errors(rows, knots)
    point = errors["point"].error
    assert 0.5 * noise < np.median(np.abs(point)) < 1.6 * noise
    (whole,) = [row for row in summarise(knots, errors) if row.question == "point" and row.regime == "all"]
    assert 0.82 <= whole.coverage <= 0.97
    width = with_intervals(knots, errors).labels[Label(("bf16", "aligned"))].log_half_width
    assert np.mean(np.abs(point) <= width[Source.FITTED].max()) >= 0.88


@given(
    grid=hnp.arrays(np.float64, (4, 5), elements=st.floats(-1, 1)),
    cell=st.tuples(st.integers(0, 3), st.integers(0, 4)),
    value=st.floats(-5, 5),
)
def test_the_estimate_of_a_cell_does_not_see_the_cell(grid: np.ndarray, cell: tuple[int, int], value: float) -> None:
    """Changing a cell leaves its own leave-one-out estimate where it was."""
    log_x, log_y = np.log([1.0, 2, 4, 8]), np.log([1.0, 3, 9, 27, 81])
    before = fill_from_neighbours(log_x, log_y, grid)[cell]
    changed = grid.copy()
    changed[cell] = value
    assert fill_from_neighbours(log_x, log_y, changed)[cell] == before


def test_holes_are_filled_from_both_axes_and_a_plane_is_met_exactly() -> None:
    """A log-linear surface with holes inside is restored."""
    log_x, log_y = np.log([1.0, 2, 4, 8]), np.log([1.0, 2, 4, 8, 16])
    plane = 0.3 * log_x[:, None] - 0.2 * log_y[None, :]
    holed = plane.copy()
    holed[1, 2] = holed[2, 3] = np.nan
    assert np.allclose(fill_from_neighbours(log_x, log_y, holed)[1:-1, 1:-1], plane[1:-1, 1:-1])


@given(error=hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(-2, 2)))
def test_the_conformal_width_covers_its_own_points(error: np.ndarray) -> None:
    """At least nine in ten of the calibration errors lie inside."""
    assert np.mean(np.abs(error) <= conformal_half_width(error)) >= 0.9


def test_the_fit_reports_every_family_and_question(artefact: Artefact) -> None:
    """Each fitted label has a row for each question, in fractions and natural logs."""
    asked = {(row.family, row.question) for row in artefact.held_out}
    assert asked >= {(family, "point") for family in artefact.families}
    # One model was measured for moe: there is no other to price it from.
    assert asked >= {(family, "shape") for family in artefact.families if family != "moe"}
    assert all(0 <= row.median <= row.p90 for row in artefact.held_out)


def test_less_certain_sources_have_intervals_of_their_own(artefact: Artefact) -> None:
    """Measured points are surer than fitted ones; all widths are positive and finite."""
    for knots in artefact.families.values():
        for fit in knots.labels.values():
            width = fit.log_half_width
            assert np.all(np.isfinite(width))
            assert np.all(width[Source.MEASURED] <= width[Source.FITTED] + 1e-12)
