"""Shares of TDP that other plans gave predict the watts of a plan that was left out."""

import numpy as np
import pytest

from benchmarks.fidelity.power_left_out import PowerRuns


def _runs(awake: float, stream: float, off: float = 1.0) -> PowerRuns:
    """Return settings of three degrees that draw what the equation says; those of tp 8 ``off`` times as much."""
    tp = np.repeat([2, 4, 8], [6, 5, 9])
    y, z = np.linspace(0.6, 0.15, len(tp)), np.linspace(0.02, 0.3, len(tp)) % 0.11
    measured = (awake * (1 - z) + stream * y + z) * np.where(tp == 8, off, 1.0)
    return PowerRuns(tp=tp, measured=measured, simulated=measured, stream=y, gemm=z)


def test_a_machine_that_follows_the_equation_is_predicted_exactly() -> None:
    """Every degree is met by the shares of the others, which are the machine's own."""
    runs = _runs(0.3, 0.7)
    predicted, shares = runs.left_out()
    assert predicted == pytest.approx(runs.measured)
    assert sorted(shares) == [2, 4, 8]
    assert all(found.tolist() == pytest.approx([0.3, 0.7]) for found in shares.values())


def test_a_degree_that_is_left_out_does_not_tell_of_itself() -> None:
    """Where tp 8 draws a tenth more than the equation says, its prediction is that of the others: a tenth short."""
    runs = _runs(0.3, 0.7, off=1.1)
    predicted, shares = runs.left_out()
    asked = runs.tp == 8
    assert predicted[asked] * 1.1 == pytest.approx(runs.measured[asked])
    assert shares[8].tolist() == pytest.approx([0.3, 0.7])
    assert shares[2].tolist() != pytest.approx([0.3, 0.7], rel=0.01)
