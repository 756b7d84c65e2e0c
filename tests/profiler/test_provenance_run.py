"""The run row: every column of the schema, software of all ranks alike, nothing that names the host."""

import platform
import subprocess

import pytest

from cluster_specs.errors import UserError
from profiler.instruments.nvml import Nvml
from profiler.instruments.provenance import (
    collect_provenance,
    git_commit,
    host_hash,
    nccl_environment,
    require_same_software,
)
from profiler.instruments.topology import read_topology
from profiles_db.schema import RUN


def test_the_row_holds_exactly_the_run_tables_columns(fake_nvml):
    """The row converts to Arrow under the run schema, values of the driver included."""
    pyarrow = pytest.importorskip("pyarrow")
    fake_nvml.set(gpus=8, driver="575.51.03", limit_mw=650_000)
    with Nvml() as nvml:
        row = collect_provenance(
            run_id="r1", device="h200-sxm", world_size=8, nvml=nvml, gpu=nvml.gpus()[0], command=["apex", "profile"]
        )
    table = pyarrow.Table.from_pylist([row], schema=RUN)
    assert set(row) == set(RUN.names)
    assert table["driver_version"].to_pylist() == ["575.51.03"]
    assert table["power_limit_w"].to_pylist() == [650]
    assert table["command"].to_pylist() == ["apex profile"]
    assert row["topology"].startswith("8x NVIDIA H200; NV")


def test_a_machine_without_nvml_has_a_row_with_unknowns():
    """A CPU run is described as far as it can be."""
    row = collect_provenance(run_id="r1", device="cpu", world_size=2)
    assert (row["driver_version"], row["power_limit_w"]) == (None, None)
    assert row["tool_version"]
    assert row["topology"].startswith("no GPU")


def test_what_nccl_was_told_is_recorded():
    """Variables that choose its algorithm and transports, sorted, and no other; nothing where none is set."""
    given = {"NCCL_CUMEM_ENABLE": "0", "NCCL_ALGO": "Ring", "TORCH_NCCL_BLOCKING_WAIT": "1", "HOME": "/root"}
    assert nccl_environment(given) == "NCCL_ALGO=Ring NCCL_CUMEM_ENABLE=0"
    assert nccl_environment({"HOME": "/root"}) is None


def test_failing_driver_queries_leave_unknowns(fake_nvml):
    """A driver that refuses queries does not stop a run from being described."""
    with Nvml() as nvml:
        gpu = nvml.gpus()[0]
        for query in ("SystemGetDriverVersion", "DeviceGetCount_v2", "DeviceGetEnforcedPowerLimit"):
            fake_nvml.fail(f"nvml{query}", 15)
        row = collect_provenance(run_id="r1", device="h200-sxm", world_size=1, nvml=nvml, gpu=gpu)
    assert (row["driver_version"], row["power_limit_w"]) == (None, None)


def test_hosts_are_told_apart_without_being_named(tmp_path):
    """The hash is stable, differs between machine ids, and does not hold the host's name."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a" * 32)
    two.write_text("b" * 32)
    assert host_hash(one) == host_hash(one) != host_hash(two)
    assert platform.node() not in host_hash(one)
    assert host_hash(tmp_path / "absent") == host_hash(tmp_path / "absent")


def test_a_commit_is_marked_dirty_when_files_differ(tmp_path):
    """A row measured with edited code cannot be mistaken for the commit's; asking writes nothing to the repository."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "code.py").write_text("one")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    index = (tmp_path / ".git" / "index").read_bytes()
    (tmp_path / "code.py").write_text("two")
    assert git_commit(tmp_path) == f"{clean}-dirty"
    (tmp_path / "code.py").write_text("one")
    assert git_commit(tmp_path) == clean
    assert (tmp_path / ".git" / "index").read_bytes() == index


def test_code_outside_a_repository_has_no_commit(tmp_path):
    """An installed package is described by its version alone."""
    assert git_commit(tmp_path) is None


def test_ranks_on_different_drivers_are_refused_by_name():
    """Each differing version is listed with the ranks that have it."""
    rows = [collect_provenance(run_id="r1", device="cpu", world_size=3) for _ in range(3)]
    require_same_software(rows)
    rows[0]["driver_version"], rows[1]["driver_version"], rows[2]["driver_version"] = "550", "550", "580"
    with pytest.raises(UserError, match="driver_version: 550 on rank 0, 1, 580 on rank 2") as caught:
        require_same_software(rows)
    assert caught.value.hint


def test_topology_reads_links_and_ports(fake_nvml, tmp_path):
    """NVLink pairs, PCIe paths where there are none, RDMA and Ethernet ports with their rates and states."""
    rdma = tmp_path / "class/infiniband/mlx5_0/ports/1"
    rdma.mkdir(parents=True)
    for name, text in {"link_layer": "InfiniBand", "rate": "400 Gb/sec (4X NDR)", "state": "4: ACTIVE"}.items():
        (rdma / name).write_text(text + "\n")
    for name, speed, state in (("eth0", "100000", "up"), ("eth1", "-1", "down")):
        (tmp_path / "class/net" / name / "device").mkdir(parents=True)
        (tmp_path / "class/net" / name / "speed").write_text(speed)
        (tmp_path / "class/net" / name / "operstate").write_text(state)
    (tmp_path / "class/net/docker0").mkdir()
    fake_nvml.set(gpus=2)
    with Nvml() as nvml:
        linked = read_topology(nvml.gpus(), sysfs=tmp_path)
        fake_nvml.set(nvlinks=0, ancestor=20)
        bridged = read_topology(nvml.gpus(), sysfs=tmp_path)
        fake_nvml.fail("nvmlDeviceGetTopologyCommonAncestor", 15)
        unknown = read_topology(nvml.gpus(), sysfs=tmp_path)
    assert linked.is_fully_nvlinked
    assert linked.nvlinks_per_gpu == (18, 18)
    assert str(linked) == "2x NVIDIA H200; NV; 1x Ethernet 100 Gb/s; 1x InfiniBand 400 Gb/s"
    assert [port.name for port in linked.ports] == ["mlx5_0:1", "eth0", "eth1"]
    assert not bridged.is_fully_nvlinked
    assert bridged.paths[0][1] == "PXB"
    assert unknown.paths == (("SELF", "?"), ("?", "SELF"))
