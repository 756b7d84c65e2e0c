"""Typed NVML queries: units, refusals and identities, under the real binding."""

import pytest

from profiler.instruments.nvml import Nvml, NvmlError


def test_queries_answer_in_si_units(fake_nvml):
    """Milliwatts, millijoules, nanoseconds and encoded versions become W, J, s and text."""
    fake_nvml.set(power_mw=432_100, limit_mw=650_000, celsius=55, cuda=12080, field_ns__271=2_500_000_000)
    with Nvml() as nvml:
        (gpu,) = nvml.gpus()
        before = gpu.energy_j()
        assert before == pytest.approx(432.1 * 1000, rel=0.01)
        assert gpu.power_w() == pytest.approx(432.1)
        assert gpu.power_limit_w() == 650
        assert gpu.temperature_c() == 55
        assert gpu.throttle_s()["power_brake"] == pytest.approx(2.5)
        assert nvml.cuda_version() == "12.8"
        assert gpu.pci_bus_id() == "0000:3b:00.0"
        assert gpu.memory_bytes()[0] == 150754820096


def test_a_gpu_is_found_by_uuid_with_and_without_prefix(fake_nvml):
    """A GPU is found by the UUID torch prints, which is without the prefix NVML wants."""
    fake_nvml.set(gpus=3)
    with Nvml() as nvml:
        assert nvml.gpu("GPU-fake-2").uuid == "GPU-fake-2"
        assert nvml.gpu("fake-1").uuid == "GPU-fake-1"
        with pytest.raises(NvmlError, match="HandleByUUID"):
            nvml.gpu("fake-9")


def test_supported_clocks_are_those_of_the_highest_memory_clock(fake_nvml):
    """Clocks come back ascending and only for the memory clock the GPU runs at under load."""
    with Nvml() as nvml:
        clocks = nvml.gpus()[0].supported_sm_clocks_mhz()
    assert clocks[0] == 345
    assert clocks[-1] == 1980
    assert list(clocks) == sorted(clocks)


def test_event_reason_bits_have_names_under_both_spellings_of_the_query(fake_nvml):
    """A driver that knows the query by its old name only gives the same answer."""
    fake_nvml.set(reasons=0x4 | 0x40)
    with Nvml() as nvml:
        gpu = nvml.gpus()[0]
        assert gpu.event_reasons() == {"sw_power_cap", "hw_thermal"}
        fake_nvml.fail("nvmlDeviceGetCurrentClocksEventReasons", 13)
        assert gpu.event_reasons() == {"sw_power_cap", "hw_thermal"}


def test_a_missing_field_is_none_and_a_missing_query_is_an_error(fake_nvml):
    """One counter the driver lacks does not hide the others; a lost GPU does."""
    fake_nvml.set(field_fail__270=2)
    with Nvml() as nvml:
        gpu = nvml.gpus()[0]
        counters = gpu.throttle_s()
        assert counters["hw_thermal"] is None
        assert counters["sw_power_cap"] == 0
        fake_nvml.fail("nvmlDeviceGetFieldValues", 15)
        with pytest.raises(NvmlError, match="lost") as caught:
            gpu.throttle_s()
        assert not caught.value.is_unsupported


def test_power_falls_back_to_the_running_average(fake_nvml):
    """Without the instantaneous field the driver's averaged power answers."""
    fake_nvml.set(field_fail__186=3, average_power_mw=123_000)
    with Nvml() as nvml:
        assert nvml.gpus()[0].power_w() == 123
        fake_nvml.fail("nvmlDeviceGetFieldValues", 13)
        assert nvml.gpus()[0].power_w() == 123


@pytest.mark.parametrize("code", [3, 13, 2])
def test_a_device_without_mig_is_not_mig(fake_nvml, code):
    """Architectures without MIG refuse the query in three ways; all mean no."""
    fake_nvml.fail("nvmlDeviceGetMigMode", code)
    with Nvml() as nvml:
        assert nvml.gpus()[0].is_mig() is False


def test_a_driver_that_does_not_start_is_one_sentence_with_a_hint(fake_nvml):
    """A failing initialisation names the cause and what to do."""
    fake_nvml.fail("nvmlInitWithFlags", 9)
    with pytest.raises(NvmlError, match="NVML cannot be opened") as caught:
        Nvml()
    assert "driver" in caught.value.hint


def test_a_refused_permission_says_how_to_get_it(fake_nvml):
    """NO_PERMISSION is told apart and carries a hint."""
    fake_nvml.fail("nvmlDeviceSetGpuLockedClocks", 4)
    with Nvml() as nvml, pytest.raises(NvmlError) as caught:
        nvml.gpus()[0].lock_sm_clock(1410)
    assert caught.value.is_permission
    assert "root" in caught.value.hint
