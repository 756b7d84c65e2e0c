"""The ladder of loads doubles up to its limit and holds it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from profiler.observe.ladder import Rung, closed_ladder, ladder, open_ladder


@given(st.integers(1, 1024))
def test_concurrencies_double_and_end_at_the_limit(most: int) -> None:
    """The first is one request alone, each is at most twice the one before, the last is the limit."""
    steps = [rung.concurrency or 0 for rung in closed_ladder(most)]
    assert steps[0] == 1
    assert steps[-1] == most
    assert all(low < high <= 2 * low for low, high in pairwise(steps))


@given(st.floats(0.01, 1000), st.floats(1, 7200))
def test_rates_double_and_end_at_the_limit(most_per_s: float, duration_s: float) -> None:
    """After one alone the rates double, the last is the limit, and the slowest has ten arrivals; else it is refused."""
    if most_per_s * duration_s / 2 < 10:
        with pytest.raises(UserError, match="must be at least 10"):
            open_ladder(most_per_s, duration_s)
        return
    first, *others = open_ladder(most_per_s, duration_s)
    assert first == Rung(concurrency=1)
    rates = [rung.rate_per_s or 0.0 for rung in others]
    assert rates[-1] == most_per_s
    assert all(high == 2 * low for low, high in pairwise(rates))
    assert rates[0] * duration_s / (len(rates) + 1) >= 10


def test_a_limit_is_asked_for() -> None:
    """No load is chosen for a server that nobody has stated the limit of."""
    with pytest.raises(UserError, match="state either --max-rate or --max-concurrency"):
        ladder(None, None, 60.0)
