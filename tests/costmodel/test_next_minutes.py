"""How far to trust the steps of a manifest after a fit, and what ten more minutes at the last run's pace measure."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster_specs.cluster import ClusterSpec
from costmodel.compare.next_minutes import NextMinutes, last_pace_per_s
from profiles_db.manifest import ShapeManifest
from profiles_db.store import Store, open_store

from .conftest import DEVICE, gemm_rows

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def measured(tmp_path: Path, cluster: ClusterSpec) -> Store:
    """Open a database of 96 products that one run of 96 seconds has measured."""
    store = open_store(tmp_path / "db", bundled=None)
    store.append("gemm", gemm_rows(cluster), "run-1")
    run = {"run_id": "run-1", "device": DEVICE, "origin": "measured", "started_at": STARTED, "world_size": 1}
    store.append_run({**run, "ended_at": STARTED + timedelta(seconds=96)})
    return store


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a manifest whose steps take one size that was measured and one that was not."""
    shape: dict[str, list[Any]] = {"m": [8, 200], "n": [4096] * 2, "k": [4096] * 2}
    shape |= {"scaling": ["none"] * 2, "quantise": [False] * 2, "dtype": ["bf16"] * 2}
    shares = pa.table({**shape, "prefill_frac": [0.25, 0.75], "decode_frac": [1.0, 0.0]})
    path = tmp_path / "shapes.json"
    ShapeManifest(tables={"gemm": pa.table(shape)}, shares={"gemm": shares}).save(path)
    return path


def test_a_fit_says_how_far_to_trust_the_steps_of_a_manifest_and_what_more_time_buys(
    run_apex: Callable[..., Any], measured: Store, manifest: Path, tmp_path: Path
) -> None:
    """One sentence in the text, the same numbers in the JSON: the measured parts are the shares of measured sizes."""
    words = ("fit", "--db", measured.root, "--prior", "none", "--out", tmp_path / "f.parquet", "--manifest", manifest)
    told = run_apex(*words)
    assert told.returncode == 0, told.stderr
    last = told.stdout.splitlines()[-1]
    assert last.startswith("A prefill step is priced to ")
    assert "Another 10 minutes of `apex profile --manifest` reach about 600 points at the last run's pace" in last
    assert "pace, the 1 shape of these steps that no row holds among them: " in last
    assert "100% and 100% of a prefill and a decode step would be measured, 25% and 100% are." in last
    facts = json.loads(run_apex(*words, "--json").stdout)
    assert facts["next_minutes"] == {
        "points": 600,
        "unmeasured": 1,
        "measured_frac": [0.25, 1.0],
        "then_frac": [1.0, 1.0],
    }
    assert [row["step"] for row in facts["steps"]] == ["prefill", "prefill", "decode", "decode"]


def test_a_manifest_that_says_no_shares_is_refused_before_a_file_is_written(
    run_apex: Callable[..., Any], measured: Store, manifest: Path, tmp_path: Path
) -> None:
    """The refusal says what to do."""
    document = json.loads(manifest.read_text())
    del document["shares"]
    manifest.write_text(json.dumps(document))
    out = tmp_path / "f.parquet"
    done = run_apex("fit", "--db", measured.root, "--prior", "none", "--out", out, "--manifest", manifest)
    assert done.returncode == 2
    assert "says no shares of a step" in done.stderr
    assert not out.exists()


def test_the_pace_is_that_of_the_last_run_that_measured(measured: Store) -> None:
    """Runs that have not ended, imports and runs without a row tell no pace."""
    assert last_pace_per_s(measured, DEVICE) == pytest.approx(1.0)
    run = {"run_id": "run-2", "device": DEVICE, "origin": "measured", "world_size": 1}
    measured.append_run({**run, "started_at": STARTED + timedelta(days=1)})
    measured.append_run({**run, "run_id": "run-3", "started_at": STARTED, "ended_at": STARTED + timedelta(days=2)})
    assert last_pace_per_s(measured, DEVICE) == pytest.approx(1.0)
    assert last_pace_per_s(measured, "a100-sxm-80gb") is None


def test_where_every_shape_is_measured_more_time_buys_no_more() -> None:
    """The sentence promises nothing."""
    facts = NextMinutes(points=600, unmeasured=0, measured_frac=(1.0, 1.0), then_frac=(1.0, 1.0))
    assert str(facts) == "Every shape of these steps is measured: more time would lower the noise alone."
