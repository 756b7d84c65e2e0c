"""What is written as TOML is read back as it was."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.files.toml_text import toml_text

_SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False)
)
_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=12
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_tables_come_back(values: dict[str, Any]) -> None:
    """Any nesting of tables, lists, texts and numbers is the same after writing and reading."""
    assert tomllib.loads(toml_text(values)) == values


def test_plain_keys_come_before_tables() -> None:
    """A key after a table would belong to the table."""
    text = toml_text({"first": {"a": 1}, "limits": [{"b": 2}, {"b": 3}], "last": "x"})
    assert text == 'last = "x"\n\n[first]\na = 1\n\n[[limits]]\nb = 2\n\n[[limits]]\nb = 3\n'


def test_none_has_no_form() -> None:
    """TOML has no value for "none": the caller leaves the key out."""
    with pytest.raises(TypeError, match="NoneType"):
        toml_text({"a": None})
