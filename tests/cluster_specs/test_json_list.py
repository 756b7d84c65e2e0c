"""JSON lists and appended JSON documents, read in bounded memory."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from cluster_specs.files.json_list import iter_list
from cluster_specs.files.json_text import parse_json, read_json

PLACE = Path("list.json")
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


def listed(content: bytes) -> list[Any]:
    return [value for _, value in iter_list(io.BytesIO(content), PLACE)]


@given(values=st.lists(VALUES, max_size=5), indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_the_elements_of_a_list_are_those_of_the_whole(values: list[Any], indent: int | None, is_ascii: bool) -> None:
    """Element by element a list holds what parsing it whole gives, numbered from 1."""
    content = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode()
    assert list(iter_list(io.BytesIO(content), PLACE)) == list(enumerate(values, start=1))


def test_elements_across_the_parts_that_are_read(tmp_path: Path) -> None:
    """A list of several megabytes, with elements longer than a part, reads as a whole."""
    values = [{"text": "é" * length} for length in (10, 2_000_000, 3, 700_000, 700_000)]
    assert listed(json.dumps(values, ensure_ascii=False).encode()) == values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1,2", "the JSON list ends before its"),
        (b"[1 2]", "entry 2: not JSON: a comma is missing"),
        (b"[1,]", "entry 2: not JSON"),
        (b"[1] x", "something follows the list"),
        (b"{}", "not a JSON list"),
        (b"", "the JSON list ends"),
        (b'["\xff"]', "not UTF-8"),
        (b"[" + b"9" * 5000 + b"]", "entry 1: not usable JSON: a number has too many digits"),
        (b"[" * 90_000, "entry 1: not usable JSON: nested too deeply"),
        (b'["' + b"x" * (17 * 2**20) + b'"]', "entry 1: is longer than 16777216 bytes"),
    ],
)
def test_what_is_no_list_is_said_with_its_entry(content: bytes, message: str) -> None:
    """Whatever the parser refuses is one UserError that names file and entry."""
    with pytest.raises(UserError, match=message):
        listed(content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(documents=st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), min_size=1, max_size=4))
def test_appended_documents_are_read_one_by_one(documents: list[Any], tmp_path: Path) -> None:
    """Documents appended with or without line ends are all there."""
    for joint in ("\n", "", "\n\n "):
        (tmp_path / "a.json").write_text(joint.join(map(json.dumps, documents)), encoding="utf-8")
        assert [document for _, document in read_json(tmp_path / "a.json")] == documents


def test_places_and_bounds_of_documents(tmp_path: Path) -> None:
    """A document is named by its line, and one of too many values is not read at all."""
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\n{"b": 2}\n')
    assert [place for place, _ in read_json(path)] == [str(path), f"{path}:2"]
    path.write_text('{"a": 1}\n{"b": }\n')
    with pytest.raises(UserError, match=r"a\.json:2: not JSON"):
        read_json(path)
    path.write_text("{}\n" + "9" * 5000)
    with pytest.raises(UserError, match=r"a\.json:2: .*too many digits"):
        read_json(path)
    path.write_text(" \n")
    with pytest.raises(UserError, match="the file is empty"):
        read_json(path)
    path.write_bytes(b"[" + b"[]," * 5_000_001 + b"0]")
    with pytest.raises(UserError, match="holds more than 10,000,000 values"):
        read_json(path)


def test_bytes_are_utf_8_whatever_they_start_with() -> None:
    """The parser does not guess another encoding."""
    with pytest.raises(UserError, match="not UTF-8"):
        parse_json("{}".encode("utf-16"), "x")
