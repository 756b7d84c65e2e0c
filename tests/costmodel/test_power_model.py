"""Energy: idle, dynamic and the cap."""

import numpy as np
import pytest

from cluster_specs.load import load_device
from costmodel.power_model import PowerModel


def test_a_kernel_that_moves_nothing_draws_what_a_device_between_kernels_draws() -> None:
    """No work in one second costs the awake power, above idle, times one second."""
    device = load_device("h100-sxm")
    power = PowerModel.from_device(device)
    joules = float(power.energy_j(np.array(1.0), dtype="bf16"))
    assert joules == pytest.approx(power.awake_w)
    assert joules > device.idle_w
    slow = float(power.energy_j(np.array(1.0), dtype="bf16", clock_mhz=990.0))
    assert device.idle_w < slow < joules


def test_power_is_capped_at_tdp() -> None:
    """Work at the stated peaks of arithmetic and memory together would draw more than TDP: it is capped."""
    device = load_device("h100-sxm")
    power = PowerModel.from_device(device)
    joules = power.energy_j(
        np.array(1.0), dtype="bf16", flop=device.peak_flop_per_s["bf16"], memory_bytes=device.memory_bytes_per_s
    )
    assert float(joules) == pytest.approx(device.tdp_w)


@pytest.mark.parametrize(("bandwidth_frac", "tdp_frac"), [(0.63, 0.74), (0.40, 0.59), (0.20, 0.43)])
def test_decode_draws_what_real_runs_drew(bandwidth_frac: float, tdp_frac: float) -> None:
    """Streaming at the bandwidths of measured A100 decode runs draws their share of TDP within 5 %."""
    device = load_device("a100-sxm-80gb")
    moved = bandwidth_frac * device.memory_bytes_per_s
    joules = PowerModel.from_device(device).energy_j(np.array(1.0), dtype="bf16", memory_bytes=moved)
    assert float(joules) / device.tdp_w == pytest.approx(tdp_frac, rel=0.05)


def test_a_gemm_at_its_calibrated_rate_draws_tdp() -> None:
    """Prompt phases of real runs are at the power limit."""
    device = load_device("a100-sxm-80gb")
    power = PowerModel.from_device(device)
    flop = device.peak_flop_per_s["bf16"] * device.analytic.gemm_efficiency["bf16"].value
    assert float(power.energy_j(np.array(1.0), dtype="bf16", flop=flop)) == pytest.approx(device.tdp_w)


def test_lower_clocks_cost_less_energy_per_operation_down_to_the_voltage_floor() -> None:
    """Energy per operation falls with the clock until the supply cannot go lower."""
    power = PowerModel.from_device(load_device("h100-sxm"))
    factors = [power.voltage_factor(mhz) for mhz in (1980.0, 1410.0, 1100.0, 810.0, 400.0)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == 1.0
    assert factors[-1] == factors[-2]


def test_the_memorys_own_energy_does_not_fall_with_the_clock() -> None:
    """Streaming at the lowest voltage still pays HBM's 31 pJ per byte; the rest of the energy per byte shrinks."""
    power = PowerModel.from_device(load_device("h100-sxm"))
    moved = 1e12
    top, low = (
        float(power.energy_j(np.array(1.0), dtype="bf16", memory_bytes=moved, clock_mhz=mhz))
        - float(power.energy_j(np.array(1.0), dtype="bf16", clock_mhz=mhz))
        for mhz in (1980.0, 810.0)
    )
    assert power.dram_j_per_byte == pytest.approx(31.2e-12)
    assert low == pytest.approx(31.2 + (top - 31.2) * power.voltage_factor(810.0))
