"""Drivers' names for accelerators and the bundled devices they mean."""

import pytest

from cluster_specs.driver_names import device_of_driver
from cluster_specs.load import bundled_devices, load_device


@pytest.mark.parametrize("device", bundled_devices())
def test_every_bundled_accelerator_is_known_by_what_its_driver_calls_it(device: str) -> None:
    """Each bundled GPU lists its driver's names, and each of them leads back to it and to no other."""
    spec = load_device(device)
    assert bool(spec.driver_names) == (spec.kind == "gpu")
    assert {device_of_driver(name) for name in spec.driver_names} <= {device}


@pytest.mark.parametrize(
    ("driver_name", "spec"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("Tesla V100-SXM2-32GB", "v100-sxm2"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("AMD Instinct MI300X OAM", "mi300x"),
        ("AMD Instinct MI355X", "mi355x"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("NVIDIA GH200 144G HBM3e", "gh200-144gb"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("A100-SXM4-80GB", "a100-sxm-80gb"),
        ("AMD Instinct MI300X VF", "mi300x"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H20-3e", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
        ("NVIDIA A10", None),
    ],
)
def test_driver_names_mean_bundled_devices_or_none(driver_name: str, spec: str | None) -> None:
    """A board whose peaks are not bundled is never taken for a similar one."""
    assert device_of_driver(driver_name) == spec
