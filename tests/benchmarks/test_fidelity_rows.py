"""Every row of the public table belongs to one server of its mapping; skipped without ground truth."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fidelity.replay import BASE, Variant, replay, validated
from benchmarks.fidelity.rows import ENGINES, MAPPING, Row, read_rows
from simulator.calibration.evidence import TPOT
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.validation.measured_run import MeasuredRun
from simulator.validation.point_mapping import read_mapping

_POINTS = Path(__file__).resolve().parents[2].parent / "shared" / "groundtruth" / "serving_points.csv"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    if not _POINTS.is_file():
        pytest.skip("../shared/groundtruth is absent")
    return read_rows(_POINTS)


def test_no_row_is_forgotten(rows: list[Row]) -> None:
    """Servers come in the order of the mapping, each with rows; sets and rules divide the rows as the page says."""
    assert list(dict.fromkeys(row.server.name for row in rows)) == [
        server.name for server in read_mapping(MAPPING).server
    ]
    assert {row.engine for row in rows} == set(ENGINES)
    sets = {"public": 887, "vendor": 526, "sweep": 143, "drafts": 88, "suspect": 21}
    assert Counter(row.server.set for row in rows) == sets
    assert sum(not isinstance(row.run, MeasuredRun) for row in rows) == 61


def test_plans_use_at_most_a_node_and_settings_are_overrides(rows: list[Row]) -> None:
    """Rows that count expert ranks twice are read as the eight devices of their node or fewer."""
    for row in rows:
        assert 1 <= row.devices <= 8, row.point.place
        assert Overrides(**row.deployment.settings).enable_prefix_caching is False


def test_repeats_of_a_setting_are_of_one_server(rows: list[Row]) -> None:
    """Rows of one setting have the same deployment and load, so that one replay stands for all of them."""
    known: dict[object, tuple[object, str]] = {}
    for row in rows:
        assert known.setdefault(row.setting, (row.deployment, row.sent)) == (row.deployment, row.sent), row.point.place


def test_a_server_is_replayed_close_to_its_measurement(rows: list[Row]) -> None:
    """The lightest settings of a public server come out within a half, in one process, under two variants."""
    own = [row for row in rows if row.server.name == "vLLM 2025, Llama-3.1-70B FP8, H200"]
    light = [row for row in own if row.setting[-2:] == (1024, 4)][:2]
    slower = Variant(name="slower", shifts={"vllm": {"host.serial_step_s": 5e-3}})
    replayed = replay(light, (BASE, slower), workers=1)
    assert len(validated(replayed[BASE.name])) == 2
    for point, other in zip(replayed[BASE.name], replayed[slower.name], strict=True):
        assert 0.5 < point.predicted(TPOT) / point.row.measured(TPOT) < 1.5
        assert other.predicted(TPOT) == pytest.approx(point.predicted(TPOT) + 5e-3, rel=0.02)


def test_files_beside_the_mapping_are_read() -> None:
    """Two profiles choose the kernels of MXFP4 experts that launch files state; a config quantises experts alone."""
    folder = MAPPING.parent
    assert load_profile(str(folder / "vllm-0.11-triton.toml")).mxfp4_experts.default == "triton"
    assert load_profile(str(folder / "vllm-0.18-marlin.toml")).mxfp4_experts.default == "marlin"
    assert load_model(str(folder / "minimax-m2.5-nvfp4" / "config.json")).quantisation == "nvfp4"
