"""Energy: idle, dynamic and the cap."""

import numpy as np
import pytest

from cluster_specs.load import load_device
from costmodel.power import PowerModel


def test_a_device_that_does_nothing_draws_idle_power() -> None:
    """No work in one second costs idle power times one second."""
    device = load_device("h100-sxm")
    power = PowerModel.from_device(device)
    assert float(power.energy_j(np.array(1.0), dtype="bf16")) == pytest.approx(device.idle_w)


def test_power_is_capped_at_tdp() -> None:
    """Work at the stated peaks of arithmetic and memory together would draw more than TDP: it is capped."""
    device = load_device("h100-sxm")
    power = PowerModel.from_device(device)
    joules = power.energy_j(
        np.array(1.0), dtype="bf16", flop=device.peak_flop_per_s["bf16"], memory_bytes=device.memory_bytes_per_s
    )
    assert float(joules) == pytest.approx(device.tdp_w)


def test_the_two_anchors_hold() -> None:
    """A GEMM at its calibrated rate draws TDP, a stream at its calibrated bandwidth 0.74 of it."""
    device = load_device("a100-sxm-80gb")
    power = PowerModel.from_device(device)
    flop = device.peak_flop_per_s["bf16"] * device.analytic.gemm_efficiency["bf16"].value
    moved = device.memory_bytes_per_s * device.analytic.memory_efficiency.value
    assert float(power.energy_j(np.array(1.0), dtype="bf16", flop=flop)) == pytest.approx(device.tdp_w)
    assert float(power.energy_j(np.array(1.0), dtype="bf16", memory_bytes=moved)) == pytest.approx(0.74 * device.tdp_w)


def test_lower_clocks_cost_less_energy_per_operation_down_to_the_voltage_floor() -> None:
    """Energy per operation falls with the clock until the supply cannot go lower."""
    power = PowerModel.from_device(load_device("h100-sxm"))
    factors = [power.voltage_factor(mhz) for mhz in (1980.0, 1410.0, 1100.0, 810.0, 400.0)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == 1.0
    assert factors[-1] == factors[-2]
