"""The mapping of the public table holds every row once; skipped without ground truth."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fidelity.groups import GROUPS
from benchmarks.fidelity.rejection import rejections
from benchmarks.fidelity.replay import read_points
from cluster_specs.load import load_cluster
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.validation.read_points import read_point_table

_POINTS = Path(__file__).resolve().parents[2].parent / "shared" / "groundtruth" / "serving_points.csv"
_SERVERS = Path(__file__).resolve().parents[2] / "benchmarks" / "fidelity" / "servers"


@pytest.mark.skipif(not _POINTS.is_file(), reason="../shared/groundtruth is absent")
def test_every_row_belongs_to_one_server() -> None:
    """No row is forgotten, every server has rows, and no plan is wider than a node."""
    table = read_point_table(_POINTS, _SERVERS / "serving_points.toml")
    held = Counter(None if point.server is None else point.server.name for point in table.points)
    assert set(held) == {server.name for server in table.mapping.server}
    for point in table.points:
        layout = table.deployment(point).layout()
        assert 1 <= layout.num_devices <= 8, point.place


@pytest.mark.skipif(not _POINTS.is_file(), reason="../shared/groundtruth is absent")
def test_the_mapping_says_what_the_groups_of_the_accuracy_page_say() -> None:
    """Server, set, plan, settings and the reason of every rejection are the same, row by row."""
    rows = {row["id"]: row for row in read_points(_POINTS)}
    table = read_point_table(_POINTS, _SERVERS / "serving_points.toml")
    reasons = table.not_believed()
    for group in GROUPS:
        points = [point for point in table.points if group.holds(rows[point.name])]
        own = [rows[point.name] for point in points]
        rejected = rejections(own, group, group.model_spec(), load_cluster(f"{group.device}-8"))
        for point, row in zip(points, own, strict=True):
            assert point.server is not None
            deployment = table.deployment(point)
            assert (point.server.name, point.server.set) == (group.name, group.kind)
            assert deployment.layout() == group.plan_of(row), point.place
            settings = {"enable_prefix_caching": False, **group.settings(row)}
            assert Overrides(**deployment.settings) == Overrides(**settings), point.place
            assert table.workload(point).endswith(group.client), point.place
            assert reasons.get(point.place) == rejected.get(row["id"]), point.place


def test_files_beside_the_mapping_are_read() -> None:
    """Two profiles choose the kernels of MXFP4 experts that launch files state; a config quantises experts alone."""
    assert load_profile(str(_SERVERS / "vllm-0.11-triton.toml")).mxfp4_experts.default == "triton"
    assert load_profile(str(_SERVERS / "vllm-0.18-marlin.toml")).mxfp4_experts.default == "marlin"
    assert load_model(str(_SERVERS / "minimax-m2.5-nvfp4" / "config.json")).quantisation == "nvfp4"
