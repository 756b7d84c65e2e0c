"""The instruments on a real GPU, wherever one is: what the fake library cannot prove."""

import os
import time

import pytest

pytest.importorskip("torch")

import torch

from profiler.instruments.clocks import NvmlClocks
from profiler.instruments.energy import EnergyMeter
from profiler.instruments.nvml import Nvml
from profiler.instruments.throttle import ThrottleCounters

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture
def gpu():
    with Nvml() as nvml:
        yield nvml.gpu(str(torch.cuda.get_device_properties(0).uuid))


@pytest.fixture(scope="module")
def gemm():
    a = torch.randn(4096, 4096, device="cuda:0", dtype=torch.bfloat16)

    def launch():
        torch.mm(a, a)

    return launch


def _load(gemm):
    def load():
        for _ in range(200):
            gemm()
        torch.cuda.synchronize(0)

    return load


def test_a_gemm_draws_more_than_idle_and_no_more_than_the_limit(gpu, gemm):
    """Energy per call is mean power times time per call, between idle power and the limit with 10 % of overshoot."""
    meter = EnergyMeter(gpu)
    if meter.refusal:
        pytest.skip(meter.refusal)
    idle_w = meter.idle_power_w()
    energy = meter.measure(gemm, synchronize=lambda: torch.cuda.synchronize(0))
    assert energy.note == ""
    assert idle_w < energy.power_w < 1.1 * gpu.power_limit_w()
    assert energy.power_w == pytest.approx(energy.sampled_power_w, rel=0.15)


@pytest.mark.skipif(not os.environ.get("APEX_TEST_LOCKS"), reason="locks the GPU's clock: set APEX_TEST_LOCKS=1")
def test_a_lock_holds_under_load_or_is_refused_in_one_sentence(gpu, gemm):
    """With permission the clock is where it was asked to be and free afterwards; without it nothing changes."""
    with NvmlClocks(gpu, _load(gemm)) as clocks:
        supported = clocks.supported_mhz()
        lock = clocks.lock(supported[len(supported) // 2])
        if lock.clock_mhz is None:
            assert "clock_mhz = null" in lock.note
            return
        assert lock.sm_clock_mhz == pytest.approx(lock.clock_mhz, abs=20)
        locked = lock.sm_clock_mhz
    with NvmlClocks(gpu, _load(gemm)) as clocks:
        assert clocks.observe().sm_clock_mhz > locked


def test_a_cool_gpu_at_small_work_is_not_throttled(gpu, gemm):
    """The counters of an undisturbed GPU give a verdict, and it is clean."""
    counters = ThrottleCounters(gpu)
    mark = counters.mark()
    gemm()
    torch.cuda.synchronize(0)
    time.sleep(0.1)
    assert mark is not None
    assert not counters.since(mark).is_rejected
