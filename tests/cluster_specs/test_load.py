"""Bundled specs are consistent, and a person's spec is read whole or refused with every fault named."""

from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import bundled_clusters, bundled_devices, load_cluster, load_device

_CLUSTER = """schema = 1
name = "lab"
device = "h100-sxm"
nodes = 2
devices_per_node = 4

[[level]]
name = "nvlink"
kind = "nvlink"
group_size = 4
bandwidth_bytes_per_s = 4.5e11
latency_s = 6e-7
source = "datasheet"

[[level]]
name = "network"
kind = "ethernet"
group_size = 8
bandwidth_bytes_per_s = 1.2e10
latency_s = 2e-5
source = "measured"
"""


@pytest.mark.parametrize("name", bundled_clusters())
def test_bundled_cluster_is_whole(name: str) -> None:
    """Every bundled cluster names itself, its device exists, and its outermost level holds all its devices."""
    cluster = load_cluster(name)
    assert cluster.name == name
    assert cluster.levels[-1].group_size == cluster.num_devices


@pytest.mark.parametrize("name", bundled_devices())
def test_bundled_device_is_whole(name: str) -> None:
    """Every bundled device names itself and has an efficiency with a source for each rate it can compute at."""
    device = load_device(name)
    assert device.name == name
    assert set(device.analytic.gemm_efficiency) == set(device.peak_flop_per_s)
    assert device.clock.base_mhz <= device.clock.max_mhz


@pytest.mark.parametrize("name", ["v100-sxm2", "a100-sxm-40gb", "h100-pcie", "b200", "mi300x"])
def test_peaks_follow_from_clock_and_units(name: str) -> None:
    """The dense 16-bit peak is SMs x FLOP per clock and SM x clock, with the architecture's FLOP per clock."""
    per_clock = {"volta": 1024, "ampere": 2048, "hopper": 4096, "blackwell": 8192, "cdna3": 2048}
    device = load_device(name)
    peak = device.sm_count * per_clock[device.architecture] * device.clock.reference_mhz * 1e6
    assert device.peak_flop_per_s["fp16"] == pytest.approx(peak, rel=0.02)


def test_sized_names_carve_and_repeat_bundled_nodes() -> None:
    """A sized name changes only the number of devices: links and device stay the bundled ones."""
    node, part, many = (load_cluster(name) for name in ("h100-sxm-8", "h100-sxm-4", "h100-sxm-16x8"))
    assert (part.num_devices, part.levels[0].group_size) == (4, 4)
    assert part.levels[0].bandwidth_bytes_per_s == node.levels[0].bandwidth_bytes_per_s
    assert (many.num_devices, [level.group_size for level in many.levels]) == (128, [8, 128])
    assert len(load_cluster("gb200-16").levels) == 1  # a rack is one NVLink domain
    assert [level.group_size for level in load_cluster("gb200-4x72").levels] == [72, 288]


def test_own_file_with_own_device(tmp_path: Path) -> None:
    """A device file beside the cluster file wins over the bundled one of the same name."""
    (tmp_path / "lab.toml").write_text(_CLUSTER)
    bundled = load_cluster(str(tmp_path / "lab.toml"))
    own = (Path(__file__).parents[2] / "cluster_specs/devices/h100-sxm.toml").read_text()
    (tmp_path / "h100-sxm.toml").write_text(own.replace("tdp_w = 700", "tdp_w = 650"))
    assert bundled.device.tdp_w == 700
    assert load_cluster(str(tmp_path / "lab.toml")).device.tdp_w == 650


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("nodes = 2", "nodes = two"), "cannot be read"),
        (("nodes = 2\n", ""), "nodes: missing"),
        (("nodes = 2", 'nodes = "two"'), "nodes is 'two'"),
        (("nodes = 2", "nodes = 2\nnode_count = 2"), "node_count: unknown key"),
        (("4.5e11", "-1"), "level[0].bandwidth_bytes_per_s is -1, must be greater than 0"),
        (("latency_s = 2e-5", "latency_us = 20"), "level[1].latency_us: unknown key"),
        (("group_size = 8", "group_size = 6"), "level[1].group_size is 6, must be a larger multiple of 4"),
        (("group_size = 8", "group_size = 16"), "nodes x devices_per_node = 8"),
        (("h100-sxm", "h100-sxn"), "'h100-sxn' is not a bundled device"),
        (("schema = 1", "schema = 2"), "schema is 2, must be 1"),
        (("nodes = 2", "nodes = 2\nusd_per_device_hour = 2.0"), "needs usd_source"),
    ],
)
def test_bad_cluster_file_is_refused(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    """A bad file ends in one error with the file, the place, the value, the limit and a hint."""
    path = tmp_path / "lab.toml"
    path.write_text(_CLUSTER.replace(*change, 1))
    with pytest.raises(UserError) as caught:
        load_cluster(str(path))
    assert complaint in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    """Two faults in one file are both in the message: nobody fixes a file one error at a time."""
    path = tmp_path / "lab.toml"
    path.write_text(_CLUSTER.replace("nodes = 2\n", "").replace("4.5e11", "0"))
    with pytest.raises(UserError, match=r"nodes: missing.*level\[0\]\.bandwidth_bytes_per_s is 0"):
        load_cluster(str(path))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("h100-8", "did you mean"), ("h100-sxm-9", "h100-sxm-2x8"), ("cpu-2x2", "your own"), ("nowhere.toml", "bundled")],
)
def test_unknown_name_says_what_there_is(name: str, complaint: str) -> None:
    """An unknown cluster name ends in a hint that leads to a known one."""
    with pytest.raises(UserError) as caught:
        load_cluster(name)
    assert complaint in caught.value.hint


def test_marks_that_editors_leave_are_no_faults(tmp_path: Path) -> None:
    """A byte-order mark and Windows line ends change nothing."""
    plain, marked = tmp_path / "plain.toml", tmp_path / "marked.toml"
    plain.write_text(_CLUSTER)
    marked.write_bytes(b"\xef\xbb\xbf" + _CLUSTER.replace("\n", "\r\n").encode())
    assert load_cluster(str(marked)) == load_cluster(str(plain))
