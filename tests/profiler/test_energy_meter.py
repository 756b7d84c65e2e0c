"""The energy meter against a counter that moves every 100 ms, drifts, sticks, or is not ours to read.

Time passes in launches alone, for the meter and for the driver: how fast the machine is does not enter.
"""

import pytest

from profiler.instruments.energy import EnergyMeter
from profiler.instruments.nvml import Nvml

_LAUNCH_S = 0.0025


@pytest.fixture
def gpu(fake_nvml):
    fake_nvml.stop_clock()
    with Nvml() as nvml:
        yield nvml.gpus()[0]


@pytest.fixture
def meter(fake_nvml, gpu):
    """Return a function that makes a meter of short windows."""

    def short_meter(**options):
        short = {"window_s": 0.2, "rise_s": 0.05, "max_spread_frac": 0.15}
        return EnergyMeter(gpu, **(short | options), now_s=lambda: fake_nvml.now_s, sleep=fake_nvml.advance)

    return short_meter


@pytest.fixture
def measure(fake_nvml):
    """Return a function that measures launches of 2.5 ms, during each of which something else may happen."""

    def of_launches(meter, *, meanwhile=lambda: None, **options):
        def launch() -> None:
            meanwhile()
            fake_nvml.advance(_LAUNCH_S)

        return meter.measure(launch, synchronize=lambda: None, **options)

    return of_launches


def test_the_tick_of_a_counter_that_moves_every_100_ms_does_not_enter_the_power(fake_nvml, meter, measure):
    """Windows start and end on moves of the counter: its tick, a tenth of this window, does not enter the power."""
    fake_nvml.set(power_mw=412_500, tick_ms=100)
    energy = measure(meter(window_s=1.0, min_windows=1))
    assert energy.power_w == pytest.approx(412.5, rel=0.01)
    assert energy.energy_j == pytest.approx(energy.power_w * energy.call_s)
    assert energy.call_s == pytest.approx(_LAUNCH_S)
    assert energy.note == ""


def test_a_window_is_never_shorter_than_ten_moves_of_the_counter(fake_nvml, meter, measure):
    """A window that would end on an edge worth more than a tenth of it goes on."""
    fake_nvml.set(tick_ms=50)
    started_s = fake_nvml.now_s
    energy = measure(meter(window_s=0.05, min_windows=2))
    assert fake_nvml.now_s - started_s >= 2 * 10 * 0.05
    assert energy.power_w == pytest.approx(300, rel=0.01)


def test_energy_is_per_call_when_a_launch_holds_many(fake_nvml, meter, measure):
    """A graph of ten calls costs ten times the energy of one call of it."""
    fake_nvml.set(tick_ms=10)
    energy = measure(meter(), calls_per_launch=10)
    assert energy.call_s == pytest.approx(_LAUNCH_S / 10)
    assert energy.energy_j == pytest.approx(energy.power_w * energy.call_s)


def test_the_rise_is_not_part_of_a_window(fake_nvml, meter, measure):
    """Power that settles during the skipped rise leaves no trace in the windows."""
    fake_nvml.set(tick_ms=10, power_mw=0)
    settles_s = fake_nvml.now_s + 0.15

    def settle() -> None:
        if fake_nvml.now_s > settles_s and not fake_nvml.values["power_mw"]:
            fake_nvml.set(power_mw=500_000)

    energy = measure(meter(rise_s=0.3), meanwhile=settle)
    assert energy.power_w == pytest.approx(500, rel=0.01)


def test_windows_that_disagree_are_repeated_and_then_rejected(fake_nvml, meter, measure):
    """Power that never settles is refused with the spread and its limit, after the most windows allowed."""
    fake_nvml.set(tick_ms=10, power_mw=100_000, ramp_mw_per_s=1_000_000)
    energy = measure(meter(max_windows=4))
    assert (energy.energy_j, energy.power_w) == (None, None)
    assert energy.windows == 4
    assert energy.spread_frac > 0.15
    assert "energy rejected" in energy.note
    assert "limit 15.0%" in energy.note


def test_an_unsettled_start_is_forgiven_when_later_windows_agree(fake_nvml, meter, measure):
    """Only the last windows count: one that was disturbed is measured again."""
    fake_nvml.set(tick_ms=10, power_mw=250_000)
    origin_s = fake_nvml.values["origin_s"]
    disturbed_s = fake_nvml.now_s + 0.15  # in the first window

    def disturb() -> None:
        if fake_nvml.now_s > disturbed_s and fake_nvml.values["origin_s"] == origin_s:
            fake_nvml.set(origin_s=origin_s - 1.0)  # other work: the counter jumps once

    energy = measure(meter(), meanwhile=disturb)
    assert energy.windows > 3
    assert energy.power_w == pytest.approx(250, rel=0.01)


def test_a_counter_that_stands_still_is_refused(fake_nvml, meter, measure):
    """No move for ten periods of the slowest counter is no measurement, and the note says so."""
    fake_nvml.set(tick_ms=10**9)
    energy = measure(meter())
    assert energy.energy_j is None
    assert "did not move" in energy.note


def test_a_counter_that_goes_backwards_is_refused(fake_nvml, meter, measure):
    """A reloaded driver starts from zero: such a window is no number."""
    fake_nvml.set(tick_ms=10)
    origin_s = fake_nvml.values["origin_s"]
    reloaded_s = fake_nvml.now_s + 0.2

    def reload() -> None:
        if fake_nvml.now_s > reloaded_s and fake_nvml.values["origin_s"] == origin_s:
            fake_nvml.set(origin_s=fake_nvml.now_s)

    energy = measure(meter(), meanwhile=reload)
    assert energy.energy_j is None
    assert "backwards" in energy.note


def test_a_gpu_lost_in_the_middle_is_a_note_and_not_an_exception(fake_nvml, meter, measure):
    """A failing query ends the measurement of energy alone; latency rows go on."""
    opened = meter()
    fake_nvml.fail("nvmlDeviceGetTotalEnergyConsumption", 15)
    energy = measure(opened)
    assert energy.energy_j is None
    assert "lost" in energy.note


def test_the_kernels_own_error_passes_through(meter):
    """The meter hides no failure of what it measures."""

    def broken() -> None:
        raise MemoryError("kernel")

    with pytest.raises(MemoryError, match="kernel"):
        meter().measure(broken, synchronize=lambda: None)


def test_idle_power_is_measured_the_same_way(fake_nvml, meter):
    """Idle power comes from the same counter over the same kind of window."""
    fake_nvml.set(power_mw=78_000, tick_ms=10)
    assert meter().idle_power_w() == pytest.approx(78, rel=0.01)


def test_the_counter_is_cross_checked_against_sampled_power(fake_nvml, meter, measure):
    """Instantaneous power readings beside the counter are reported, so that a mismatch can be seen."""
    fake_nvml.set(power_mw=222_000, tick_ms=10)
    energy = measure(meter())
    assert energy.sampled_power_w == pytest.approx(222)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"mig": 1}, ("MIG", "whole board")),
        ({"fail__nvmlDeviceGetTotalEnergyConsumption": 3}, ("Not Supported",)),
        ({"fail__nvmlDeviceGetTotalEnergyConsumption": 3, "virtualization": 2}, ("vgpu", "Not Supported")),
        ({"fail__nvmlDeviceGetTotalEnergyConsumption": 4}, ("Permission",)),
    ],
)
def test_a_counter_that_is_not_ours_is_refused_by_name(fake_nvml, gpu, state, words):
    """On MIG, on a vGPU, in a container: empty columns, no launch, and one sentence why."""
    fake_nvml.set(**state)
    meter = EnergyMeter(gpu)
    launches = []
    energy = meter.measure(lambda: launches.append(1), synchronize=lambda: None)
    assert energy.energy_j is None
    assert meter.idle_power_w() is None
    assert energy.note == meter.refusal
    assert all(word in meter.refusal for word in words)
    assert launches == []


def test_without_a_gpu_nothing_is_measured_and_it_is_said():
    """A CPU run asks the same meter and gets a reason."""
    assert "no GPU" in EnergyMeter(None).measure(lambda: None, synchronize=lambda: None).note
