"""A fit file that was changed in any way is refused by the place that was changed; none of it is priced."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.bundled_fits import bundled_fit, devices_with_fit
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.ops.op_types import Gemm
from profiles_db.parquet_files import read_table

NUMBERS = ("x", "y", "latency_s", "log_residual", "log_error_point", "feature_0", "feature_1")


@pytest.fixture(scope="module")
def saved(artefact: Artefact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the fitted model once for all changes."""
    path = tmp_path_factory.mktemp("fit") / "fit.parquet"
    save_artefact(artefact, path)
    return path


def _table(path: Path) -> pa.Table:
    return read_table(path)


def _written(table: pa.Table, like: Path, name: str = "changed.parquet") -> Path:
    path = like.with_name(name)
    pq.write_table(table, path)
    return path


def _refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_artefact(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 600
    assert caught.value.hint
    return str(caught.value)


def _with(table: pa.Table, column: str, values: Any) -> pa.Table:
    index = table.schema.get_field_index(column)
    kind = table.schema.field(index)
    return table.set_column(index, kind, values if isinstance(values, pa.ChunkedArray) else pa.array(values, kind.type))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_changed_value_is_named_by_its_row(saved: Path, data: st.DataObject) -> None:
    """Any one number of the file changed to any other: the message names family, label and row."""
    table = _table(saved)
    column = data.draw(st.sampled_from(NUMBERS))
    row = data.draw(st.integers(0, table.num_rows - 1))
    values = table[column].to_pylist()
    wild = st.floats() | st.sampled_from([0.0, -1.0, 1e300, float("inf"), float("nan")])
    slight = st.floats(0.5, 2.0).map(lambda factor: (values[row] or 1.0) * factor)
    new = pa.scalar(data.draw(wild | slight), table.schema.field(column).type).as_py()  # as the column holds it
    if values[row] == new or (values[row] is None and np.isnan(new)):
        return
    values[row] = new
    message = _refused(_written(_with(table, column, values), saved))
    family = table["family"][row].as_py()
    assert family in message
    if not column.startswith("feature"):
        # Where the order or the grid breaks, it may be another row of its line that no longer fits.
        assert any(f"row {near}:" in message for near in range(max(row - 60, 0), row + 60)), message
        assert table["label"][row].as_py() in message


@pytest.mark.parametrize("column", ["latency_s", "log_residual"])
def test_a_plausible_change_is_named_exactly(saved: Path, column: str) -> None:
    """A latency or residual changed by a thousandth is found by the digest, which says which row it was."""
    table = _table(saved)
    for row in (0, 17, table.num_rows // 2, table.num_rows - 1):
        values = table[column].to_pylist()
        values[row] = (values[row] or 1e-3) * 1.001
        message = _refused(_written(_with(table, column, values), saved))
        label = table["label"][row].as_py()
        assert f"label {label}, row {row}: is not the row that was written" in message


CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "residuals NaN": lambda t: _with(t, "log_residual", [float("nan")] * t.num_rows),
    "residuals 50": lambda t: _with(t, "log_residual", [50.0] * t.num_rows),
    "residuals -50": lambda t: _with(t, "log_residual", [-50.0] * t.num_rows),
    "x negated": lambda t: _with(t, "x", pc.negate(t["x"])),
    "x as int64": lambda t: t.set_column(t.schema.get_field_index("x"), "x", t["x"].cast(pa.int64())),
    "rows shuffled": lambda t: t.take(pa.array(np.random.default_rng(0).permutation(t.num_rows))),
    "rows sorted by x": lambda t: t.sort_by("x"),
    "rows reversed": lambda t: t.take(pa.array(np.arange(t.num_rows)[::-1])),
    "two rows swapped": lambda t: t.take(pa.array([1, 0, *range(2, t.num_rows)])),
    "a row lost": lambda t: t.slice(1),
    "the last rows lost": lambda t: t.slice(0, t.num_rows - 5),
    "a row twice": lambda t: pa.concat_tables([t.slice(0, 1), t]),
    "all rows lost": lambda t: t.slice(0, 0),
    "a null x": lambda t: _with(t, "x", [None, *t["x"].to_pylist()[1:]]),
    "a null label": lambda t: _with(t, "label", pa.chunked_array([_null_first(t["label"])])),
    "a null shape": lambda t: _with(t, "shape", [None, *t["shape"].to_pylist()[1:]]),
    "labels as text": lambda t: t.set_column(t.schema.get_field_index("label"), "label", t["label"].cast(pa.string())),
    "x as lists": lambda t: t.set_column(t.schema.get_field_index("x"), "x", pa.array([[1.0]] * t.num_rows)),
    "x missing": lambda t: t.drop_columns(["x"]),
    "x twice": lambda t: t.append_column("x", t["x"]),
    "labels renamed": lambda t: _with(t, "label", pa.chunked_array([pa.array(["a"] * t.num_rows).dictionary_encode()])),
}


def _null_first(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None, *column.to_pylist()[1:]], pa.string()).dictionary_encode()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("version", [2, 3])
def test_a_rewritten_table_is_refused(saved: Path, change: str, version: int) -> None:
    """What other tools do to rows and columns is refused in files of this version and of those before digests."""
    table = _table(saved)
    if version < 3:
        table = _without_digest(table)
    changed = CHANGES[change](table).replace_schema_metadata(table.schema.metadata)
    if version < 3 and change in {"a row lost", "the last rows lost"}:
        return  # nothing in such a file says how many rows there were
    _refused(_written(changed, saved))


BODIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "efficiency NaN": lambda b: _label(b)["reference"].update(compute_efficiency=float("nan")),
    "efficiency 0": lambda b: _label(b)["reference"].update(memory_efficiency=0),
    "floor -1": lambda b: _label(b)["reference"].update(floor_s=-1.0),
    "floor text": lambda b: _label(b)["reference"].update(floor_s="1e-6"),
    "half width -1": lambda b: _label(b).update(log_half_width=[[-1.0] * 3] * 5),
    "half width NaN": lambda b: _label(b).update(log_half_width=[[float("nan")] * 3] * 5),
    "half width short": lambda b: _label(b).update(log_half_width=[[0.1] * 3]),
    "trend short": lambda b: _label(b).update(trend=_label(b)["trend"] + [0.0]),
    "trend empty": lambda b: _label(b).update(trend=[], trend_log_s=[]),
    "trend nested": lambda b: _label(b).update(trend=[[0.0]]),
    "trust 2": lambda b: _label(b).update(trust_along_x=2.0),
    "unlocked_mhz -5": lambda b: b["provenance"].update(unlocked_mhz=-5.0),
    "unlocked_mhz text": lambda b: b["provenance"].update(unlocked_mhz="fast"),
    "run_ids text": lambda b: b["provenance"].update(run_ids=5),
    "power -1": lambda b: b.update(power=POWER | {"j_per_byte": -1.0}),
    "power without clock": lambda b: b.update(power=POWER | {"max_mhz": 0.0}),
    "features renamed": lambda b: b["families"]["gemm"].update(features=["k", "n"]),
    "features number": lambda b: b["families"]["gemm"].update(features=7),
    "label unknown": lambda b: b["families"]["gemm"]["labels"].update(more=_label(b)),
    "label lost": lambda b: b["families"]["gemm"]["labels"].popitem(),
    "family lost": lambda b: b["families"].pop("gemm"),
    "family unknown": lambda b: b["families"].update(new=b["families"]["gemm"]),
    "families a list": lambda b: b.update(families=[]),
    "reports a number": lambda b: b.update(reports=5),
    "held_out half": lambda b: b.update(held_out=[{"family": "gemm"}]),
}
POWER = {"idle_w": 1.0, "awake_w": 1.0, "tdp_w": 1.0, "j_per_flop": {}, "j_per_byte": 1.0, "j_per_link_byte": 1.0}
POWER |= {"max_mhz": 1.0, "source": ""}


def _label(body: dict[str, Any]) -> dict[str, Any]:
    label: dict[str, Any] = next(iter(body["families"]["gemm"]["labels"].values()))
    return label


def _without_digest(table: pa.Table, body: dict[str, Any] | None = None) -> pa.Table:
    """Return the table as a version before digests would have written it."""
    body = body or json.loads(table.schema.metadata[b"apex_fit"])
    for part in body["families"].values() if isinstance(body["families"], dict) else ():
        part.pop("digests", None)
        part.pop("error_digests", None)
        for label in part["labels"].values():
            label.pop("shape_factors", None)
            if label["filling"] is not None:
                label["filling"]["errors"] = {"point": {"error": []}}
    residual = table.schema.get_field_index("log_residual")
    if table.schema.field(residual).type == pa.float32():
        table = table.set_column(residual, "log_residual", table["log_residual"].cast(pa.float64()))
    table = table.drop_columns([name for name in table.column_names if name.startswith("log_error")])
    return table.replace_schema_metadata({"apex_fit_schema_version": "2", "apex_fit": json.dumps(body)})


@pytest.mark.parametrize("change", BODIES)
def test_changed_metadata_are_refused(saved: Path, change: str) -> None:
    """Constants no fit can have are named in files without digests, any change at all in those with them."""
    table = _table(saved)
    body = json.loads(table.schema.metadata[b"apex_fit"])
    BODIES[change](body)
    _refused(_written(_without_digest(table, body), saved))
    metadata = {**table.schema.metadata, b"apex_fit": json.dumps(body).encode()}
    assert "metadata were changed" in _refused(_written(table.replace_schema_metadata(metadata), saved))


@pytest.mark.parametrize(
    "metadata",
    [
        {b"apex_fit_schema_version": b"\xff"},
        {b"apex_fit_schema_version": "²".encode()},
        {b"apex_fit_schema_version": b"9" * 5000},
        {b"apex_fit_schema_version": b"0"},
        {b"apex_fit_schema_version": b"2", b"apex_fit": b"\xff\xfe"},
        {b"apex_fit_schema_version": b"2", b"apex_fit": b"[" * 9000},
        {b"apex_fit_schema_version": b"2", b"apex_fit": b'{"a": ' + b"9" * 5000 + b"}"},
        {b"apex_fit_schema_version": b"2"},
        {b"\xff": b"\xff"},
    ],
)
def test_metadata_that_are_no_text_are_refused(saved: Path, metadata: dict[bytes, bytes]) -> None:
    """Bytes that are no UTF-8, no number or no JSON end in one message."""
    _refused(_written(_table(saved).replace_schema_metadata(metadata), saved))


def test_a_bomb_is_refused_by_what_it_states(saved: Path) -> None:
    """A few kilobytes that unpack to three million rows are refused before any of them is read."""
    table = _table(saved)
    bomb = pa.concat_tables([table.slice(0, 1)] * 1000).combine_chunks()
    bomb = pa.concat_tables([bomb] * 3000)
    path = _written(bomb.replace_schema_metadata(table.schema.metadata), saved, "bomb.parquet")
    assert "states 3000000 rows" in _refused(path)
    assert path.stat().st_size < 300_000


def test_a_file_of_a_version_before_digests_is_read_and_says_so(saved: Path, cluster: ClusterSpec) -> None:
    """It prices to the bit as the one with digests; what the prices rest on mentions that nothing vouches for it."""
    old = load_artefact(_written(_without_digest(_table(saved)), saved, "old.parquet"))
    before, now = FittedCosts(old, cluster), FittedCosts(load_artefact(saved), cluster)
    op = Gemm(m=np.arange(1, 3000, 7), n=2500, k=4096)
    assert before.predict(op).latency_s.tobytes() == now.predict(op).latency_s.tobytes()
    assert "no digest" in before.origin
    assert "no digest" not in now.origin


@pytest.mark.parametrize("device", devices_with_fit())
def test_bundled_fits_carry_digests(device: str) -> None:
    """Every fit that comes with the package is of this version and sound."""
    path = bundled_fit(device)
    assert path is not None
    assert load_artefact(path).has_digest
