"""How predictions of many runs stand to what was measured."""

import pytest

from simulator.validation.summary import agreement
from tests.simulator.validated_runs import validated_run


def test_errors_are_relative_and_signed() -> None:
    """+10 and -30 percent: mean and median 20, bias -10, nine of ten below 28; what is not predicted does not count."""
    runs = [validated_run({"ttft_s.mean": (1.0, predicted)}) for predicted in (1.1, 0.7, None)]
    found = agreement(runs, "ttft_s.mean")
    assert found is not None
    assert (found.runs, found.mape_frac, found.median_frac) == (2, pytest.approx(0.2), pytest.approx(0.2))
    assert (found.bias_frac, found.p90_frac) == (pytest.approx(-0.1), pytest.approx(0.28))
    assert agreement(runs, "tpot_s.mean") is None
