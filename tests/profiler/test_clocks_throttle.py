"""Throttle verdicts from counters: what rejects a sample, what labels it, what is not known."""

import pytest

from profiler.instruments.nvml import Nvml
from profiler.instruments.throttle import Throttle, ThrottleCounters


@pytest.fixture
def counters(fake_nvml):
    fake_nvml.stop_clock()
    with Nvml() as nvml:
        yield ThrottleCounters(nvml.gpus()[0], now_s=lambda: fake_nvml.now_s)


def test_counters_that_stand_still_are_a_clean_sample(counters):
    """A limit that was active before the measurement is not held against it."""
    verdict = counters.since(counters.mark())
    assert (verdict.status, verdict.note) == ("ok", "")


@pytest.mark.parametrize(("field", "name"), [(269, "sw_thermal"), (270, "hw_thermal"), (271, "power_brake")])
def test_heat_and_power_brake_reject_a_sample_even_when_over_by_its_end(fake_nvml, counters, field, name):
    """A limit that came and went between two looks moves its counter, and the sample is rejected."""
    mark = counters.mark()
    fake_nvml.set(**{f"field_ns__{field}": 2_000_000})
    verdict = counters.since(mark)
    assert verdict.is_rejected
    assert verdict.status == "throttled"
    assert name in verdict.note


def test_the_software_power_cap_labels_a_sample_with_its_share_of_the_time(fake_nvml, counters):
    """The power cap is the true steady state of a large GEMM: kept, with the fraction in the note."""
    fake_nvml.set(field_frac__74=0.5)
    mark = counters.mark()
    fake_nvml.advance(0.1)
    verdict = counters.since(mark)
    assert verdict.status == "ok"
    assert verdict.limited_frac["sw_power_cap"] == pytest.approx(0.5)
    assert "sw_power_cap" in verdict.note


def test_a_hardware_slowdown_seen_in_the_reasons_rejects(fake_nvml, counters):
    """The slowdown bit has no counter of its own and counts when seen at an end."""
    mark = counters.mark()
    fake_nvml.set(reasons=0x8)
    assert counters.since(mark).is_rejected


def test_a_locked_or_idle_clock_is_no_throttling(fake_nvml, counters):
    """Our own lock shows as a reason and must not spoil the sample."""
    fake_nvml.set(reasons=0x1 | 0x2)
    verdict = counters.since(counters.mark())
    assert (verdict.status, verdict.note) == ("ok", "")


def test_a_driver_without_counters_is_judged_by_both_ends_and_says_so(fake_nvml, counters):
    """Without counters the verdict names its weakness; a reason seen at the start alone still rejects."""
    fake_nvml.fail("nvmlDeviceGetFieldValues", 3)
    fake_nvml.set(reasons=0x40)
    mark = counters.mark()
    fake_nvml.set(reasons=0)
    verdict = counters.since(mark)
    assert verdict.is_rejected
    assert "both ends only" in verdict.note


def test_a_device_that_answers_nothing_is_unknown_and_not_clean(fake_nvml, counters):
    """No answer is told apart from no throttling."""
    mark = counters.mark()
    fake_nvml.fail("nvmlDeviceGetFieldValues", 15)
    fake_nvml.fail("nvmlDeviceGetCurrentClocksEventReasons", 15)
    verdict = counters.since(mark)
    assert verdict.status == "ok"
    assert "unknown" in verdict.note


def test_a_cpu_has_nothing_to_say():
    """Without a GPU the verdict is clean and silent: every CPU row would carry the same sentence."""
    none = ThrottleCounters(None)
    assert none.since(none.mark()) == Throttle()
