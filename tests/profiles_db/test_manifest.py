"""The shape manifest: what is asked for arrives, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from profiles_db.manifest import ShapeManifest, load_manifest, manifest_schema
from profiles_db.schema import FAMILIES

VALUES = {pa.int64(): st.integers(0, 2**31 - 1), pa.string(): st.sampled_from(["a", "b"]), pa.bool_(): st.booleans()}
VALUES |= {pa.float64(): st.integers(0, 2**50).map(float)}


def _gemm(**changes: Any) -> pa.Table:
    columns = {"m": [1, 2], "n": [8, 8], "k": [4, 4], "scaling": ["none"] * 2, "quantise": [False] * 2}
    return pa.table({**columns, "dtype": ["bf16", "bf16"], **changes})


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), name=st.sampled_from(sorted(FAMILIES)))
def test_shapes_survive_the_file(data: st.DataObject, name: str, tmp_path: Path) -> None:
    """Whatever distinct shapes are saved are loaded, in order and with types."""
    schema = manifest_schema(FAMILIES[name])
    row = st.tuples(*(VALUES[field.type] for field in schema))
    rows = data.draw(st.lists(row, max_size=10, unique=True))
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    manifest = ShapeManifest(tables={name: pa.table(arrays, schema=schema)})
    path = tmp_path / "shapes.json"
    manifest.save(path)
    loaded = load_manifest(path)
    assert loaded.tables[name].equals(manifest.tables[name])
    assert loaded.num_shapes == len(rows)


def test_a_shape_asked_for_twice_is_measured_once() -> None:
    """Repeated rows fold into the first."""
    manifest = ShapeManifest(tables={"gemm": _gemm(m=[3, 3])})
    assert manifest.tables["gemm"]["m"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"gem": _gemm()}, "unknown op family 'gem'"),
        ({"gemm": _gemm().drop_columns(["k"])}, "column k is missing"),
        ({"gemm": _gemm(speed=[1, 2])}, "column speed is not part"),
        ({"gemm": _gemm(m=[1, None])}, "column m has an empty value"),
        ({"gemm": _gemm(m=[1, -2])}, "column m, row 1: -2 must be from 0"),
        ({"gemm": _gemm(m=["one", "two"])}, "column m"),
    ],
)
def test_tables_of_another_form_are_refused(tables: dict[str, pa.Table], words: str) -> None:
    """A manifest cannot hold what the profiler could not measure."""
    with pytest.raises(UserError, match=words):
        ShapeManifest(tables=tables)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no apex_shape_manifest version"),
        ('{"apex_shape_manifest": 99, "families": {}}', "manifest version 99"),
        ('{"apex_shape_manifest": 1}', "families must be an object"),
        ('{"apex_shape_manifest": 1, "families": {"gemm": []}}', "families.gemm: must have a list of columns"),
        (
            '{"apex_shape_manifest": 1, "families": {"gemm": {"columns": ["m"], "rows": [[1, 2]]}}}',
            "row 0 must be a list",
        ),
    ],
)
def test_files_of_another_form_are_named(text: str, words: str, tmp_path: Path) -> None:
    """Whatever is wrong, the message starts with the file and says where."""
    path = tmp_path / "shapes.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    """A path that does not exist is said, not traced."""
    with pytest.raises(UserError, match="no such file"):
        load_manifest(tmp_path / "none.json")


def test_the_file_is_readable_by_a_person(tmp_path: Path) -> None:
    """Columns are named in the file, so a row can be edited by hand."""
    path = tmp_path / "shapes.json"
    ShapeManifest(tables={"gemm": _gemm()}).save(path)
    families = json.loads(path.read_text())["families"]
    assert families["gemm"]["columns"] == ["m", "n", "k", "scaling", "quantise", "dtype"]


GEMM_COLUMNS = ["m", "n", "k", "scaling", "quantise", "dtype"]
GEMM_ROW = [1, 1, 1, "none", False, "bf16"]


def _changed_row(**changes: object) -> dict[str, object]:
    row = [changes.get(name, value) for name, value in zip(GEMM_COLUMNS, GEMM_ROW, strict=True)]
    return {"columns": GEMM_COLUMNS, "rows": [row]}


@pytest.mark.parametrize(
    "gemm",
    [
        _changed_row(m=9 * 10**15),
        _changed_row(m=2**63),
        _changed_row(m=10**400),
        _changed_row(m=-1),
        _changed_row(m=1.5),
        _changed_row(m=[1]),
        _changed_row(dtype="\ud800"),
        {"columns": [["m"], *GEMM_COLUMNS[1:]], "rows": [GEMM_ROW]},
        {"columns": [{"m": 1}, *GEMM_COLUMNS[1:]], "rows": [GEMM_ROW]},
        {"columns": ["m", "m", *GEMM_COLUMNS[1:]], "rows": [[1, *GEMM_ROW]]},
        {"columns": ["x" * 10**5], "rows": []},
    ],
)
def test_sizes_and_columns_no_tensor_has_are_refused(tmp_path: Path, gemm: dict[str, object]) -> None:
    """Whatever stands in a column's name or a value, the answer is one message with file and family."""
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps({"apex_shape_manifest": 1, "families": {"gemm": gemm}}))
    with pytest.raises(UserError) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"{path}: families.gemm")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["[" * 9000, '{"apex_shape_manifest": ' + "9" * 5000 + "}", '{"apex_shape_manifest": true}']
)
def test_json_beyond_the_parser_is_refused(tmp_path: Path, text: str) -> None:
    """Deep nesting and numbers of thousands of digits are errors of the file like any other."""
    path = tmp_path / "shapes.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"shapes\.json"):
        load_manifest(path)


def test_shares_survive_the_file_and_may_be_missing(tmp_path: Path) -> None:
    """Shares come back as written; a manifest of before there were any is read without."""
    shares = _gemm(prefill_frac=[0.25, 0.75], decode_frac=[1.0, 0.0])
    with_shares, without = tmp_path / "new.json", tmp_path / "old.json"
    ShapeManifest(tables={"gemm": _gemm()}, shares={"gemm": shares}).save(with_shares)
    ShapeManifest(tables={"gemm": _gemm()}).save(without)
    assert load_manifest(with_shares).shares["gemm"]["prefill_frac"].to_pylist() == [0.25, 0.75]
    assert "shares" not in json.loads(without.read_text())
    assert not load_manifest(without).shares
    assert load_manifest(with_shares).tables["gemm"].equals(load_manifest(without).tables["gemm"])


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_shares_that_are_none_are_refused(wrong: float) -> None:
    """A share is from 0 to 1."""
    shares = _gemm(prefill_frac=[0.5, wrong], decode_frac=[0.5, 0.5])
    with pytest.raises(UserError, match="prefill_frac, row 1"):
        ShapeManifest(tables={}, shares={"gemm": shares})
