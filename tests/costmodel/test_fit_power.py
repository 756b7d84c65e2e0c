"""The constants of the power equation are the optimum of their problem."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.fitting.fit_power import non_negative_least_squares


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(3, 30), constants=st.integers(1, 6))
def test_constants_meet_the_conditions_of_the_optimum(seed: int, rows: int, constants: int) -> None:
    """No constant is negative, and the residual's gradient is zero where one is positive and never below elsewhere.

    These are the Karush-Kuhn-Tucker conditions, which only the optimum of a convex problem meets.
    """
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(0, 14, constants)  # one column counts seconds, another flop per second
    design = rng.normal(size=(rows, constants)) * scale
    target = rng.normal(size=rows)
    found = non_negative_least_squares(design, target)
    assert (found >= 0).all()
    gradient = (design / scale).T @ (design @ found - target)
    assert gradient[found > 0] == pytest.approx(0.0, abs=1e-9)
    assert gradient.min() >= -1e-9


def test_a_format_without_work_costs_nothing() -> None:
    """A column of zeros, a format nobody measured, gets no joules and spoils no other constant."""
    design = np.array([[1.0, 0.0, 2.0], [1.0, 0.0, 4.0], [1.0, 0.0, 7.0]])
    found = non_negative_least_squares(design, design @ np.array([90.0, 5.0, 3.0]))
    assert found.tolist() == pytest.approx([90.0, 0.0, 3.0])
