"""The mapping of the public table holds every row once; skipped without ground truth."""

from collections import Counter
from pathlib import Path

import pytest

from simulator.engine_profiles.engine_profile import load_profile
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


def test_files_beside_the_mapping_are_read() -> None:
    """Two profiles choose the kernels of MXFP4 experts that launch files state; a config quantises experts alone."""
    assert load_profile(str(_SERVERS / "vllm-0.11-triton.toml")).mxfp4_experts.default == "triton"
    assert load_profile(str(_SERVERS / "vllm-0.18-marlin.toml")).mxfp4_experts.default == "marlin"
    assert load_model(str(_SERVERS / "minimax-m2.5-nvfp4" / "config.json")).quantisation == "nvfp4"
