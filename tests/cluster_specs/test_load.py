"""Bundled specs are consistent, and a person's spec is read whole or refused with every fault named."""

from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import bundled_clusters, bundled_devices, bundled_node, load_cluster, load_device

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


@pytest.mark.parametrize("name", bundled_devices())
def test_bundled_device_has_a_cluster(name: str) -> None:
    """Every bundled device can be searched by name: one node of it is bundled."""
    assert bundled_node(name) is not None


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
    (tmp_path / "h100-sxm.toml").write_text(own.replace("idle_w = 70", "idle_w = 65"))
    assert bundled.device.idle_w == 70
    assert load_cluster(str(tmp_path / "lab.toml")).device.idle_w == 65


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
        (("nodes = 2", "nodes = true"), "nodes is True, must be a valid integer"),
        (("nodes = 2", "nodes = 2\nnodes = 2"), "cannot be read: Cannot overwrite a value"),
        (("schema = 1", "schema = true"), "schema is True, must be a number"),
        (("4.5e11", "true"), "level[0].bandwidth_bytes_per_s is True"),
        (("4.5e11", '"450 GB/s"'), "level[0].bandwidth_bytes_per_s is '450 GB/s'"),
        (("4.5e11", "450"), "bandwidth_bytes_per_s is 450, must be from 1e+06 to 1e+15"),
        (("latency_s = 2e-5", "latency_s = 1e308"), "level[1].latency_s is 1e+308, must be from 1e-09 to 1"),
        (("latency_s = 2e-5", "latency_s = 20"), "level[1].latency_s is 20, must be from 1e-09 to 1"),
        (("latency_s = 2e-5", "latency_s = nan"), "level[1].latency_s is nan"),
        (("latency_s = 2e-5", "latency_s = 2e-5\npeer_to_peer = false"), "peer_to_peer is false"),
        (('name = "network"', 'name = "nvlink"'), "level names are nvlink, nvlink, must differ"),
        (("nodes = 2", "nodes = 2\nhosts_per_node = 3"), "hosts_per_node is 3, must divide"),
        (("schema = 1", "x = " + "9" * 5000), "cannot be read"),
        (("schema = 1", "x = " + "[" * 9000), "nested too deeply"),
        (("schema = 1", "x = '" + "a" * 2**20 + "'"), "larger than 1048576 bytes"),
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
    assert len(str(caught.value)) < 500
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("memory_efficiency = { value = 0.856", "memory_efficiency = { value = 85.6"), "85.6, a fraction above 1"),
        (
            ("gemm_efficiency]\nbf16 = { value = 0.803", "gemm_efficiency]\nbf16 = { value = 1e308"),
            "a fraction above 1",
        ),
        (("link_efficiency = { value = 0.672", "link_efficiency = { value = 0"), "must be a fraction from 0.001 to 1"),
        (("link_efficiency = { value = 0.672", "link_efficiency = { value = true"), "value is True"),
        (("reference_mhz = 1830", "reference_mhz = 1e-300"), "reference_mhz is 1e-300, must be from 1 to 20000"),
        (("reference_mhz = 1830", "reference_mhz = 1990"), "reference_mhz is 1990, must be at most max_mhz = 1980"),
        (("sm_count = 132", "sm_count = true"), "sm_count is True"),
        (("memory_bytes = 85029615042", "memory_bytes = 80"), "memory_bytes is 80, must be at least"),
        (("memory_bytes_per_s = 3.352e+12", "memory_bytes_per_s = 3352"), "memory_bytes_per_s is 3352"),
        (("idle_w = 70", "idle_w = 700"), "idle_w is 700, must be below tdp_w = 700"),
        (("tdp_w = 700", "tdp_w = 500"), "tdp_w is 500, that of h100-sxm is 700"),
        (("\nfp8 = { value = 0.494", "\nfp4 = { value = 0.494"), "analytic.gemm_efficiency has no fp8"),
    ],
)
def test_a_device_that_cannot_be_is_refused(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    """Per cent for fractions, giga for bytes, booleans for numbers: each is named with its place, value and limit."""
    own = (Path(__file__).parents[2] / "cluster_specs/devices/h100-sxm.toml").read_text()
    assert change[0] in own
    path = tmp_path / "mine.toml"
    path.write_text(own.replace(*change, 1))
    with pytest.raises(UserError) as caught:
        load_device(str(path))
    assert complaint in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("family", ["gb200", "gb300"])
def test_trays_of_a_rack_are_one_nvlink_domain(family: str) -> None:
    """A rack counted by its trays has the rack's links; more trays are whole racks on the network, or refused."""
    rack = load_cluster(f"{family}-72")
    for trays in ("18x4", "9x8", "1x72"):
        counted = load_cluster(f"{family}-{trays}")
        assert (counted.levels, counted.nodes, counted.hosts_per_node) == (rack.levels, 1, 18)
    assert load_cluster(f"{family}-36x4").levels == load_cluster(f"{family}-2x72").levels
    assert load_cluster(f"{family}-2x4").levels == load_cluster(f"{family}-8").levels
    with pytest.raises(UserError, match="80 devices are no whole number of NVLink domains of 72") as caught:
        load_cluster(f"{family}-20x4")
    assert f"{family}-72 or {family}-2x72" in caught.value.hint


@pytest.mark.parametrize("name", bundled_devices())
def test_constants_of_another_device_say_so(name: str) -> None:
    """A constant whose source is another device's names that device, and no other constant does."""
    device = load_device(name)
    for constant in device.analytic.constants():
        lent = [
            other
            for other in bundled_devices()
            if f"as {other}:" in constant.source or f"as {other}," in constant.source
        ]
        assert ([constant.of] if constant.of else []) == lent
    assert device.constants_text


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    """Two faults in one file are both in the message: nobody fixes a file one error at a time."""
    path = tmp_path / "lab.toml"
    path.write_text(_CLUSTER.replace("nodes = 2\n", "").replace("4.5e11", "0"))
    with pytest.raises(UserError, match=r"nodes: missing.*level\[0\]\.bandwidth_bytes_per_s is 0"):
        load_cluster(str(path))


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("8xH200", "h200-sxm-8"),
        ("H200:4", "h200-sxm-4"),
        ("b200x4", "b200-4"),
        ("2x8xB200", "b200-2x8"),
        ("4xh100-sxm", "h100-sxm-4"),
        ("H100-SXM-16x8", "h100-sxm-16x8"),
    ],
)
def test_clusters_are_named_as_people_count_devices(spelled: str, name: str) -> None:
    """A count before or behind the device is a size of its cluster, in any case; a board that is meant is unique."""
    assert load_cluster(spelled) == load_cluster(name)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("h100-8", "did you mean h100-sxm-8"),
        ("a100-8", "did you mean a100-sxm-80gb-8 or a100-sxm-40gb-8"),
        ("a100-16", "did you mean a100-sxm-80gb-2x8 or a100-sxm-40gb-2x8"),
        ("8xH100", "did you mean h100-sxm-8 or h100-pcie-8"),
        ("H100", "did you mean h100-sxm-8"),
        ("mi300-8", "mi300x-8"),
        ("h100-sxm-9", "h100-sxm-2x8"),
        ("h100-nvl-4", "h100-nvl-2"),
        ("cpu-2x2", "your own"),
        ("h100-sxm-900000x8", "for example"),
        ("h100-sxm-" + "9" * 5000, "bundled"),
        ("nowhere.toml", "bundled"),
        ("a" * 300 + ".toml", "bundled"),
        ("\0.toml", "bundled"),
    ],
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
