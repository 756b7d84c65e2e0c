"""Stopping rule of a measurement."""

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.stopping import MedianConfidence, median_interval


def test_constant_samples_settle_at_the_minimum_count():
    """Samples without spread settle as soon as the minimum number is there."""
    rule = MedianConfidence(min_samples=10, max_s=100.0)
    taken = 0
    while rule.reason is None:
        rule.add(1e-3, 1e-3)
        taken += 1
    assert (taken, rule.reason) == (10, "settled")


def test_noisy_samples_end_by_time():
    """Samples that never agree end the measurement when the time is spent, and say so."""
    rule = MedianConfidence(relative=0.001, max_s=1.0)
    draw = random.Random(1)
    while rule.reason is None:
        rule.add(draw.uniform(1.0, 2.0), 0.1)
    assert rule.reason == "time"


def test_a_short_quiet_stretch_does_not_settle():
    """Below the least time even equal samples go on."""
    rule = MedianConfidence(min_s=0.02)
    for _ in range(15):
        rule.add(1e-6, 1e-3)
    assert rule.reason is None


@pytest.mark.parametrize("count", [10, 30, 100, 400])
def test_interval_covers_the_true_median(count):
    """The order-statistic interval of a skewed law covers its true median in at least 93 of 100 trials at 95 %."""
    draw = random.Random(count)
    low, high = median_interval(count, 0.95)
    true = 2 ** (1 / 3)  # median of Pareto(3)
    covered = 0
    for _ in range(400):
        samples = sorted(draw.paretovariate(3) for _ in range(count))
        covered += samples[low] <= true <= samples[high]
    assert covered >= 372


@given(st.lists(st.floats(1e-7, 1.0), min_size=10, max_size=60))
def test_half_width_bounds_the_median(samples):
    """The interval the rule judges always encloses the sample median."""
    low, high = median_interval(len(samples), 0.95)
    ordered = sorted(samples)
    assert ordered[low] <= median(ordered) <= ordered[high]
