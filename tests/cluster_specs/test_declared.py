"""Declarations: checked as pydantic models are, and the same value where a sound file is taken on trust."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import ValidationError

from cluster_specs.bundled_names import bundled_clusters, bundled_devices, bundled_path
from cluster_specs.cluster import ClusterFile
from cluster_specs.device import DeviceSpec
from cluster_specs.files.declared import Declared, Field, field_validator, model_validator
from cluster_specs.files.toml_model import read_values
from tests.cluster_specs.exact import exact

_OPTIONS = {"frozen": True, "extra": "forbid", "strict": True}


class Inner(Declared, **_OPTIONS):
    """A table in a table."""

    rate: Annotated[float, Field(gt=0)]
    tags: list[str] = Field(default_factory=list)


class Outer(Declared, **_OPTIONS):
    """A table with checks of its own."""

    version: int = Field(alias="schema")
    inner: Inner
    more: dict[str, Inner] = Field(default_factory=dict)
    several: tuple[Inner, ...] = ()
    most: Annotated[int, Field(le=9)] | None = None
    _mark: str | None = None

    @field_validator("most")
    @classmethod
    def _is_even(cls, most: int | None) -> int | None:
        if most is not None and most % 2:
            raise ValueError(f"is {most}, must be even")
        return most

    @model_validator(mode="after")
    def _has_room(self) -> "Outer":
        if self.most is not None and self.total > self.most:
            raise ValueError(f"total is {self.total}, must be at most {self.most}")
        return self

    @property
    def total(self) -> float:
        """Sum of the rates."""
        return self.inner.rate + sum(item.rate for item in self.several)


def test_what_is_checked_is_a_declared_value() -> None:
    """Nested tables, lists and maps of a checked value are declared values, and whole numbers floats where declared."""
    table = {"schema": 1, "inner": {"rate": 2}, "more": {"a": {"rate": 1.0}}, "most": 8}
    found = Outer.model_validate(table)
    assert exact(found) == exact(Outer.trusted(table))
    assert found == Outer.trusted(table)
    assert type(found.inner) is type(found.more["a"]) is Inner
    assert type(found.inner.rate) is float
    assert (found.several, found.inner.tags, found.version) == ((), [], 1)


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"inner": {"rate": -1}, "most": 11, "extra": 1}, {("inner", "rate"), ("most",), ("extra",)}),
        ({"schema": "1"}, {("schema",)}),
        ({"inner": {}}, {("inner", "rate")}),
        ({"most": 3}, {("most",)}),
        ({"inner": {"rate": 9.0}, "most": 8}, {()}),
        ({"more": {"a": {"rate": True}}}, {("more", "a", "rate")}),
    ],
)
def test_every_fault_is_found_in_its_place(changes: dict[str, Any], places: set[tuple[Any, ...]]) -> None:
    """Bounds, types, unknown and missing keys, checks of a field and of the whole: all that pydantic lists."""
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"schema": 1, "inner": {"rate": 1.0}} | changes)
    assert {item["loc"] for item in caught.value.errors()} == places


def test_a_value_is_frozen_and_copied_with_changes() -> None:
    """Fields cannot be set, a copy takes what is changed unchecked, marks of a copy leave the value alone."""
    first = Outer(schema=1, inner=Inner(rate=1.0))
    with pytest.raises(AttributeError, match="frozen"):
        first.most = 2  # type: ignore[misc]
    second = first.model_copy(update={"most": 3})
    assert (first.most, second.most, second.inner) == (None, 3, first.inner)
    assert first != second
    assert hash(first.model_copy(update={"more": (), "inner": None})) is not None
    marked = first.model_copy(update={"_mark": "x"})
    assert (first._mark, marked._mark) == (None, "x")
    assert marked != first


def test_a_value_is_dumped_as_pydantic_does() -> None:
    """Aliases, defaults left out and plain tables come out as of a pydantic model."""
    value = Outer(schema=1, inner=Inner(rate=1.0), several=(Inner(rate=2.0, tags=["a"]),))
    assert value.model_dump(by_alias=True, exclude_defaults=True, mode="json") == {
        "schema": 1,
        "inner": {"rate": 1.0},
        "several": [{"rate": 2.0, "tags": ["a"]}],
    }


@pytest.mark.parametrize(
    ("kind", "model", "name"),
    [
        *(("devices", DeviceSpec, name) for name in bundled_devices()),
        *(("clusters", ClusterFile, name) for name in bundled_clusters()),
    ],
)
def test_bundled_files_need_no_check(kind: str, model: type[Declared], name: str) -> None:
    """Every bundled device and cluster passes the checks of a person's file, and is the same value without them."""
    values = read_values(bundled_path(kind, name))
    assert exact(model.model_validate(values)) == exact(model.trusted(values))


def test_a_bundled_cluster_is_read_without_pydantic() -> None:
    """Neither declaring nor reading what is bundled imports pydantic; a person's file does."""
    script = (
        "import sys\nfrom cluster_specs.load import load_cluster\nload_cluster('h100-sxm-8')\n"
        "assert not {'pydantic', 'pydantic_core'} & set(sys.modules)\n"
        f"load_cluster({str(bundled_path('clusters', 'h100-sxm-8'))!r})\nassert 'pydantic' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
