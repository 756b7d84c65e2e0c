"""The timing loop on kernels whose time is known, and on instruments that complain."""

import time

import pytest

from profiler.backend import Prepared
from profiler.instruments.throttle import Throttle, ThrottleCounters
from profiler.stopping import MedianConfidence
from profiler.timing import CpuStopwatch, Measurement, PointTimeoutError, TimingPolicy, take_samples

QUICK = TimingPolicy(warmup_s=0.002, max_s=0.05, min_s=0.0)


class ScriptedStopwatch:
    """Gives samples from a list, the last one for ever; negative ones count as preempted."""

    launch = "eager"

    def __init__(self, samples):
        self._samples = list(samples)
        self.was_preempted = False

    def sample_s(self):
        """Give the next sample."""
        sample = self._samples.pop(0) if len(self._samples) > 1 else self._samples[0]
        self.was_preempted = sample < 0
        return abs(sample)


class HotFor(ThrottleCounters):
    """Counters that see heat over the first ``stretches`` stretches."""

    def __init__(self, stretches):
        super().__init__(None)
        self._left = stretches

    def since(self, start):  # noqa: ARG002 - the counters' signature
        """Judge one more stretch."""
        self._left -= 1
        return Throttle(limited_frac={"sw_thermal": 0.5} if self._left >= 0 else {})


def test_a_sample_is_the_time_of_its_calls():
    """No sample is shorter than the call in it, all fit into the time they took, and buffer sets are used in turn."""
    turns, took_s = [], []

    def launch(i):
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < 0.002:  # longer than a batch: one call is a sample
            pass
        turns.append(i)
        took_s.append(time.perf_counter() - began_s)

    stopwatch = CpuStopwatch(Prepared(launch, 3), QUICK)
    warm_ups = len(turns)
    began_s = time.perf_counter()
    measured = take_samples(stopwatch, QUICK.rule(), ThrottleCounters(None))
    elapsed_s = time.perf_counter() - began_s
    samples_s = measured.samples_s
    assert len(took_s) - warm_ups >= len(samples_s) + measured.preempted
    assert min(took_s[warm_ups:]) <= min(samples_s)
    assert sum(samples_s) <= elapsed_s
    assert [i % 3 for i in turns[-6:]] in ([0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0], [2, 0, 1, 2, 0, 1])


def test_short_calls_are_timed_in_batches():
    """A call far below the clock's resolution is timed by the mean of many."""
    calls = []
    stopwatch = CpuStopwatch(Prepared(calls.append, 1), QUICK)
    before = len(calls)
    stopwatch.sample_s()
    assert len(calls) - before > 1


def test_a_point_that_takes_too_long_is_given_up():
    """Warm-up calls beyond the point's limit end it."""
    policy = TimingPolicy(warmup_s=0.0, point_timeout_s=0.0)
    with pytest.raises(PointTimeoutError, match="more than 0 s"):
        CpuStopwatch(Prepared(lambda _: None, 1), policy)


def test_preempted_samples_are_dropped_and_counted():
    """Samples in which another process ran do not enter the median."""
    rule = MedianConfidence(min_samples=10)
    measured = take_samples(ScriptedStopwatch([-9.0, 1e-3, -9.0, 1e-3]), rule, ThrottleCounters(None))
    assert measured.preempted == 2
    assert set(measured.samples_s) == {1e-3}


def test_a_kernel_that_is_always_preempted_is_still_measured():
    """Where no sample is undisturbed, samples are kept in the end instead of waiting for ever."""
    measured = take_samples(ScriptedStopwatch([-2e-3]), MedianConfidence(min_samples=10), ThrottleCounters(None))
    assert measured.quantile_s(0.5) == 2e-3
    assert measured.preempted > 0


def test_throttled_stretches_are_dropped_and_counted():
    """Samples taken under heat are dropped; the measurement goes on when it is over."""
    rule = MedianConfidence(min_samples=10)
    measured = take_samples(ScriptedStopwatch([5.0] * 8 + [1e-3]), rule, HotFor(1))
    assert measured.dropped == 8
    assert measured.samples_s == (1e-3,) * 10
    assert not measured.is_throttled
    assert "sw_thermal" in measured.throttle_note


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 1.0), (0.5, 2.5), (0.1, 1.3), (1.0, 4.0)])
def test_quantiles_interpolate_between_sorted_samples(fraction, expected):
    """Quantiles are those of the sorted samples, whatever their order."""
    measured = Measurement(samples_s=(4.0, 1.0, 3.0, 2.0), launch="eager", stopped="settled")
    assert measured.quantile_s(fraction) == pytest.approx(expected)
