"""The fitted model as a file: whole, readable by others, refused when it cannot be right."""

import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.fit_file.artefact import FIT_SCHEMA_VERSION, load_artefact, save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.ops.op_types import Attention, Gemm
from profiles_db.parquet_files import read_table


@pytest.fixture
def saved(artefact: Artefact, tmp_path: Path) -> Path:
    """Write the fitted model."""
    save_artefact(artefact, tmp_path / "fit.parquet")
    return tmp_path / "fit.parquet"


def test_a_saved_model_prices_like_the_one_in_memory(artefact: Artefact, saved: Path, cluster: ClusterSpec) -> None:
    """Nothing is lost on the way through the file: prices, intervals and held-out table are equal."""
    loaded = load_artefact(saved)
    before, after = FittedCosts(artefact, cluster), FittedCosts(loaded, cluster)
    for op in (
        Gemm(m=np.arange(1, 3000, 7), n=2500, k=4096),
        Attention(
            num_heads=12, num_kv_heads=2, head_dim=128, v_head_dim=128, num_decode=9, decode_kv=np.arange(1, 900)
        ),
    ):
        assert np.array_equal(before.predict(op).latency_s, after.predict(op).latency_s)
        assert np.array_equal(before.predict(op).high_s, after.predict(op).high_s)
    assert repr(loaded.held_out) == repr(artefact.held_out)
    assert loaded.provenance == artefact.provenance


def test_any_parquet_reader_finds_rows_with_units(saved: Path) -> None:
    """The knots are plain columns, and latency says it is in seconds."""
    table = pq.read_table(saved)
    assert {"family", "label", "x", "latency_s", "log_residual"} <= set(table.column_names)
    assert table.schema.field("latency_s").metadata == {b"unit": b"s"}
    assert set(table["family"].unique().to_pylist()) == {"gemm", "attention", "moe", "elementwise", "collective"}


def test_a_missing_file_is_named_with_the_command_that_writes_one(tmp_path: Path) -> None:
    """The message holds the path, the hint the command."""
    with pytest.raises(UserError, match=r"none\.parquet: no such file") as caught:
        load_artefact(tmp_path / "none.parquet")
    assert "apex fit" in caught.value.hint


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused_by_name(saved: Path, keep: float) -> None:
    """Whatever is left of the file, the answer is one sentence with its path."""
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"fit\.parquet"):
        load_artefact(saved)


def _rewrite(path: Path, **changes: bytes | None) -> None:
    table = read_table(path)
    metadata = dict(table.schema.metadata)
    for key, value in changes.items():
        if value is None:
            del metadata[key.encode()]
        else:
            metadata[key.encode()] = value
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_a_newer_schema_is_refused_with_both_versions(saved: Path) -> None:
    """The message names the file's version and what this apex reads."""
    _rewrite(saved, apex_fit_schema_version=b"99")
    with pytest.raises(UserError, match=rf"fit schema 99, this apex reads up to {FIT_SCHEMA_VERSION}"):
        load_artefact(saved)


def test_measurements_are_not_taken_for_a_fitted_model(saved: Path) -> None:
    """A Parquet file of another kind is told apart, with what to do."""
    _rewrite(saved, apex_fit_schema_version=None)
    with pytest.raises(UserError, match="is not a fitted cost model"):
        load_artefact(saved)


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"provenance": {"device": 3}}'])
def test_damaged_metadata_is_refused(saved: Path, body: bytes) -> None:
    """Metadata that does not parse or lacks parts is damage, not a traceback."""
    _rewrite(saved, apex_fit=body)
    with pytest.raises(UserError, match="damaged"):
        load_artefact(saved)


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(artefact: Artefact, tmp_path: Path) -> None:
    """A target inside a missing folder is refused, and no temporary file is left."""
    with pytest.raises(UserError, match="cannot be written"):
        save_artefact(artefact, tmp_path / "missing" / "fit.parquet")
    assert list(tmp_path.iterdir()) == []


def test_loading_and_pricing_need_no_fitting_library(saved: Path) -> None:
    """Neither scikit-learn nor pandas is imported on the way from a file to a price."""
    code = (
        "import sys, pathlib\n"
        "from cluster_specs.load import load_cluster\n"
        "from costmodel.ops.op_types import Gemm\n"
        "from costmodel.fitted_costs import load_costs\n"
        "load_costs(pathlib.Path(sys.argv[1]), load_cluster('h100-sxm-8')).predict(Gemm(m=7, n=1024, k=1024))\n"
        "print(sorted({'pandas', 'sklearn', 'scipy', 'torch', 'numba', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
