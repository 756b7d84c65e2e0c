"""Every measured row belongs to one server, whose settings the simulator accepts; skipped without ground truth."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fidelity.checkpoints import CHECKPOINTS, measured_model
from benchmarks.fidelity.groups import GROUPS
from benchmarks.fidelity.replay import BASE, Variant, read_points, replay_groups
from simulator.feasible.server_setup import Overrides

_POINTS = Path(__file__).resolve().parents[2].parent / "shared" / "groundtruth" / "serving_points.csv"
needs_points = pytest.mark.skipif(not _POINTS.is_file(), reason="../shared/groundtruth is absent")


@needs_points
def test_every_row_belongs_to_one_server() -> None:
    """No row is replayed twice, none is forgotten; every server has rows."""
    rows = read_points(_POINTS)
    holders = Counter(group.name for row in rows for group in GROUPS if group.holds(row))
    assert sum(holders.values()) == len(rows)
    assert set(holders) == {group.name for group in GROUPS}


@needs_points
def test_plans_use_at_most_a_node_and_settings_are_overrides() -> None:
    """Rows that count expert ranks twice are read as the eight devices of their node or fewer."""
    for row in read_points(_POINTS):
        group = next(group for group in GROUPS if group.holds(row))
        assert 1 <= group.plan_of(row).num_devices <= 8, row["id"]
        Overrides(**group.settings(row))


@needs_points
def test_a_server_is_replayed_close_to_its_measurement() -> None:
    """The two lightest settings of a public server come out within a half, in one process, under two variants."""
    group = next(group for group in GROUPS if group.name.startswith("vLLM 2025, Llama-3.1-70B FP8, H200"))
    rows = [
        row for row in read_points(_POINTS) if group.holds(row) and row["concurrency"] == "4" and row["osl"] == "1024"
    ]
    slower = Variant(name="slower", shifts={"vllm": {"host.serial_step_s": 5e-3}})
    replayed = replay_groups(rows[:2], [group], (BASE, slower), workers=1)
    for point, other in zip(replayed[BASE.name], replayed[slower.name], strict=True):
        assert point.rejected is None
        assert 0.5 < point.tpot_s / point.measured_tpot_s < 1.5
        assert other.tpot_s == pytest.approx(point.tpot_s + 5e-3, rel=0.02)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_measured_servers_are_read(name: str) -> None:
    """A config written for a server is one the readers know: NVFP4 experts, 16-bit attention."""
    model = measured_model(name)
    assert model.quantisation == "nvfp4"
    assert measured_model(name) is model
