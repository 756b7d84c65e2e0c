"""The self-test: what it accepts, what it calls a problem, and that it runs on this CPU."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch

from profiler.device_spec import device_spec
from profiler.selftest import Quantity, SelfTest, self_test
from profiler.timing import TimingPolicy

_GOOD = Quantity(
    name="copy bandwidth",
    rate=4.3e12,
    unit="B/s",
    reference=4.8e12,
    floor=0.8,
    ceiling=1.05,
    spread_frac=0.01,
    max_spread_frac=0.05,
    drift_frac=-0.004,
    max_drift_frac=0.03,
)


def test_a_healthy_quantity_has_no_problem_and_the_machine_is_trusted():
    """90 % of the stated bandwidth, tight and steady, is what healthy boards give."""
    test = SelfTest(device="h200-sxm", quantities=(_GOOD,))
    assert test.is_trusted
    assert test.lines()[-1] == "h200-sxm: measurements taken here can be trusted"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 5.3e12}, "limit 1.05: the timer or the spec is wrong"),
        ({"rate": 2.4e12}, "0.50 of the stated peak, at least 0.80"),
        ({"spread_frac": 0.2}, "spread by 20.0%, limit 5%"),
        ({"drift_frac": -0.08}, "-8.0% from start to end, limit 3%"),
    ],
)
def test_each_way_to_be_wrong_is_told_with_value_and_limit(change, words):
    """Too fast, too slow, noisy, drifting: one problem each, and the machine is not trusted."""
    test = SelfTest(device="h200-sxm", quantities=(_GOOD, replace(_GOOD, **change)))
    assert not test.is_trusted
    (problem,) = test.quantities[1].problems
    assert words in problem
    assert "cannot be trusted" in test.lines()[-1]


def test_the_self_test_measures_this_cpu_against_its_spec():
    """Copy and GEMM give rates, the GEMM reference counts the threads, and the report ends in a verdict."""
    spec = device_spec("cpu")
    policy = TimingPolicy(warmup_s=0.01, max_s=0.05)
    test = self_test(spec, torch.device("cpu"), policy=policy)
    copy, gemm = test.quantities
    assert copy.reference == spec.memory_bytes_per_s
    assert gemm.reference == spec.peak_flop_per_s["fp32"] * torch.get_num_threads()
    assert copy.rate > 0
    assert gemm.rate > 0
    assert "trusted" in test.lines()[-1]


@pytest.mark.gpu
def test_a_gpu_comes_near_its_datasheet():
    """Copy bandwidth and a large GEMM reach the accepted range on an undisturbed GPU."""
    from cluster_specs.driver_names import device_of_driver
    from profiler.instruments.nvml import Nvml

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda", 0)
    name = device_of_driver(torch.cuda.get_device_name(device))
    if name is None:
        pytest.skip("no bundled spec for this GPU")
    with Nvml() as nvml:
        gpu = nvml.gpu(str(torch.cuda.get_device_properties(device).uuid))
        test = self_test(device_spec(name), device, gpu=gpu)
    assert test.is_trusted, "\n".join(test.lines())
