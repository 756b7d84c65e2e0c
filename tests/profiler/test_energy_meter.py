"""The energy meter against a counter that moves every 100 ms, drifts, sticks, or is not ours to read."""

import time

import pytest

from profiler.instruments.energy import EnergyMeter
from profiler.instruments.nvml import Nvml

_LAUNCH_S = 0.001


@pytest.fixture
def gpu(fake_nvml):
    with Nvml() as nvml:
        yield nvml.gpus()[0]


def _launch() -> None:
    time.sleep(_LAUNCH_S)


def _measure(meter, **options):
    return meter.measure(_launch, synchronize=lambda: None, **options)


def _short_meter(gpu, **options):
    return EnergyMeter(gpu, **({"window_s": 0.2, "rise_s": 0.05, "max_spread_frac": 0.15} | options))


def test_the_tick_of_a_counter_that_moves_every_100_ms_does_not_enter_the_power(fake_nvml, gpu):
    """Windows start and end on moves of the counter: its tick, a tenth of this window, does not enter the power."""
    fake_nvml.set(power_mw=412_500, tick_ms=100)
    energy = _measure(EnergyMeter(gpu, window_s=1.0, rise_s=0.05, min_windows=1))
    assert energy.power_w == pytest.approx(412.5, rel=0.04)
    assert energy.energy_j == pytest.approx(energy.power_w * energy.call_s)
    assert energy.call_s >= _LAUNCH_S
    assert energy.note == ""


def test_a_window_is_never_shorter_than_ten_moves_of_the_counter(fake_nvml, gpu):
    """A window that would end on an edge worth more than a tenth of it goes on."""
    fake_nvml.set(tick_ms=50)
    started = time.monotonic()
    energy = _measure(_short_meter(gpu, window_s=0.05, min_windows=2, max_spread_frac=0.5))
    assert time.monotonic() - started >= 2 * 10 * 0.05
    assert energy.power_w == pytest.approx(300, rel=0.2)


def test_energy_is_per_call_when_a_launch_holds_many(fake_nvml, gpu):
    """A graph of ten calls costs ten times the energy of one call of it."""
    fake_nvml.set(tick_ms=10)
    energy = _measure(_short_meter(gpu), calls_per_launch=10)
    assert _LAUNCH_S / 10 <= energy.call_s < _LAUNCH_S
    assert energy.energy_j == pytest.approx(energy.power_w * energy.call_s)


def test_the_rise_is_not_part_of_a_window(fake_nvml, gpu):
    """Power that settles during the skipped rise leaves no trace in the windows."""
    fake_nvml.set(tick_ms=10, power_mw=0, ramp_mw_per_s=0, origin_s=time.monotonic())
    meter = _short_meter(gpu, rise_s=0.3)
    launches = []

    def launch() -> None:
        if not launches:
            launches.append(time.monotonic())
        if len(launches) == 1 and time.monotonic() - launches[0] > 0.15:
            launches.append(time.monotonic())
            fake_nvml.set(power_mw=500_000)
        time.sleep(_LAUNCH_S)

    energy = meter.measure(launch, synchronize=lambda: None)
    assert energy.power_w == pytest.approx(500, rel=0.1)


def test_windows_that_disagree_are_repeated_and_then_rejected(fake_nvml, gpu):
    """Power that never settles is refused with the spread and its limit, after the most windows allowed."""
    fake_nvml.set(tick_ms=10, power_mw=100_000, ramp_mw_per_s=1_000_000, origin_s=time.monotonic())
    energy = _measure(_short_meter(gpu, max_windows=4))
    assert (energy.energy_j, energy.power_w) == (None, None)
    assert energy.windows == 4
    assert energy.spread_frac > 0.15
    assert "energy rejected" in energy.note
    assert "limit 15.0%" in energy.note


def test_an_unsettled_start_is_forgiven_when_later_windows_agree(fake_nvml, gpu):
    """Only the last windows count: one that was disturbed is measured again."""
    fake_nvml.set(tick_ms=10, power_mw=250_000)
    # Other work in the first window: the driver's counter jumps once.
    disturbed_at = time.monotonic() + 0.15
    done = []

    def launch() -> None:
        if not done and time.monotonic() > disturbed_at:
            done.append(True)
            fake_nvml.set(origin_s=fake_nvml.values["origin_s"] - 1.0)
        time.sleep(_LAUNCH_S)

    energy = _short_meter(gpu).measure(launch, synchronize=lambda: None)
    assert energy.windows > 3
    assert energy.power_w == pytest.approx(250, rel=0.1)


def test_a_counter_that_stands_still_is_refused(fake_nvml, gpu):
    """No move for ten periods of the slowest counter is no measurement, and the note says so."""
    fake_nvml.set(tick_ms=10**9)
    energy = _measure(_short_meter(gpu))
    assert energy.energy_j is None
    assert "did not move" in energy.note


def test_a_counter_that_goes_backwards_is_refused(fake_nvml, gpu):
    """A reloaded driver starts from zero: such a window is no number."""
    fake_nvml.set(tick_ms=10)
    started = time.monotonic()
    done = []

    def launch() -> None:
        if not done and time.monotonic() - started > 0.2:
            done.append(True)
            fake_nvml.set(origin_s=time.monotonic())
        time.sleep(_LAUNCH_S)

    energy = _short_meter(gpu).measure(launch, synchronize=lambda: None)
    assert energy.energy_j is None
    assert "backwards" in energy.note


def test_a_gpu_lost_in_the_middle_is_a_note_and_not_an_exception(fake_nvml, gpu):
    """A failing query ends the measurement of energy alone; latency rows go on."""
    meter = _short_meter(gpu)
    fake_nvml.fail("nvmlDeviceGetTotalEnergyConsumption", 15)
    energy = _measure(meter)
    assert energy.energy_j is None
    assert "lost" in energy.note


def test_the_kernels_own_error_passes_through(fake_nvml, gpu):
    """The meter hides no failure of what it measures."""

    def broken() -> None:
        raise MemoryError("kernel")

    with pytest.raises(MemoryError, match="kernel"):
        _short_meter(gpu).measure(broken, synchronize=lambda: None)


def test_idle_power_is_measured_the_same_way(fake_nvml, gpu):
    """Idle power comes from the same counter over the same kind of window."""
    fake_nvml.set(power_mw=78_000, tick_ms=10)
    assert _short_meter(gpu).idle_power_w() == pytest.approx(78, rel=0.1)


def test_the_counter_is_cross_checked_against_sampled_power(fake_nvml, gpu):
    """Instantaneous power readings beside the counter are reported, so that a mismatch can be seen."""
    fake_nvml.set(power_mw=222_000, tick_ms=10)
    energy = _measure(_short_meter(gpu))
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
    assert "no GPU" in EnergyMeter(None).measure(_launch, synchronize=lambda: None).note
