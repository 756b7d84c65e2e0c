"""The contract itself: units and names say the same."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles_db.schema import FAMILIES, RUN, SCHEMA_VERSION, unit_of

SCHEMAS = {**{name: family.schema for name, family in FAMILIES.items()}, "run": RUN}


@pytest.mark.parametrize("name", SCHEMAS)
def test_unit_metadata_says_what_the_name_promises(name: str) -> None:
    """Every field carries the unit of its name's suffix, and no other field carries one."""
    for field in SCHEMAS[name]:
        written = (field.metadata or {}).get(b"unit")
        assert (written.decode() if written else None) == unit_of(field.name), field.name


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_measured_quantity_has_a_unit(name: str) -> None:
    """A floating-point column is a physical quantity, so it must have a unit."""
    assert all(unit_of(field.name) for field in SCHEMAS[name] if pa.types.is_floating(field.type))


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_names_family_and_version(name: str) -> None:
    """A file says what it holds and by which version, without its path."""
    assert SCHEMAS[name].metadata == {
        b"apex_schema_version": str(SCHEMA_VERSION).encode(),
        b"apex_family": name.encode(),
    }


@given(stem=st.from_regex(r"[a-z]{1,8}", fullmatch=True))
def test_longest_suffix_decides_the_unit(stem: str) -> None:
    """A rate is not mistaken for the time or size its name ends in."""
    assert unit_of(f"{stem}_bytes_per_s") == "B/s"
    assert unit_of(f"{stem}_flop_per_s") == "FLOP/s"
    assert unit_of(f"{stem}_s") == "s"


@pytest.mark.parametrize("name", FAMILIES)
def test_key_of_follows_the_key_columns(name: str) -> None:
    """A row's key lists the key columns in order, a context column left out counting as null."""
    family = FAMILIES[name]
    row = {column: index for index, column in enumerate(family.key_columns) if column != "clock_mhz"}
    expected = tuple(None if column == "clock_mhz" else index for index, column in enumerate(family.key_columns))
    assert family.key_of(row) == expected
