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

VALUES = {pa.int64(): st.integers(0, 2**40), pa.string(): st.sampled_from(["a", "b"]), pa.bool_(): st.booleans()}


def _gemm(**changes: Any) -> pa.Table:
    columns = {"m": [1, 2], "n": [8, 8], "k": [4, 4], "scaling": ["none"] * 2, "quantise": [False] * 2}
    return pa.table({**columns, "dtype": ["bf16", "bf16"], **changes})


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        ({"gemm": _gemm(m=[1, -2])}, "column m holds a negative size"),
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
    with pytest.raises(UserError, match="cannot be read"):
        load_manifest(tmp_path / "none.json")


def test_the_file_is_readable_by_a_person(tmp_path: Path) -> None:
    """Columns are named in the file, so a row can be edited by hand."""
    path = tmp_path / "shapes.json"
    ShapeManifest(tables={"gemm": _gemm()}).save(path)
    families = json.loads(path.read_text())["families"]
    assert families["gemm"]["columns"] == ["m", "n", "k", "scaling", "quantise", "dtype"]
