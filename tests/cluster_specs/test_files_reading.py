"""Files are read up to stated bounds, packed or not, and whatever is wrong with them is one message with the place."""

import contextlib
import gzip
import json
import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import exists, is_file, iter_lines, opened, read_document
from cluster_specs.files.shown import shown


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small gzip file."""
    path = tmp_path_factory.mktemp("packed") / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 2000))
    return path


@given(data=st.data())
def test_a_damaged_gzip_file_is_named(packed: Path, data: st.DataObject) -> None:
    """Cut anywhere, or with any byte changed, it is read whole or refused with its name; nothing else is raised."""
    sound = packed.read_bytes()
    changed = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
    if changed:
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(0, 255))
    path = packed.with_name("changed.jsonl.gz")
    path.write_bytes(changed)
    with contextlib.suppress(UserError):
        content = read_document(path)
        assert content in (b"", gzip.decompress(sound)) or bytes(changed) != sound


def test_a_gzip_bomb_is_refused_within_bounded_memory(tmp_path: Path) -> None:
    """One line of half a gigabyte in half a megabyte is refused after the bound of a line, not after all of it."""
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(512):
            stream.write(bytes(2**20))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"bomb\.jsonl\.gz:1: the line is longer than"), opened(path) as stream:
        list(iter_lines(stream, path))
    with pytest.raises(UserError, match=r"bomb\.jsonl\.gz: is larger than 1000000 bytes"):
        read_document(path, most_bytes=10**6)
    with (
        Path("/dev/null").open("wb") as nowhere,
        pytest.raises(UserError, match=r"bomb\.jsonl\.gz: unpacks to more than"),
        opened(path) as stream,
    ):
        shutil.copyfileobj(stream, nowhere)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 200 * 1024


def test_a_line_too_long_is_named_by_its_number(tmp_path: Path) -> None:
    """Numbers count from the given first line."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"one\ntwo\n" + b"x" * 50 + b"\n")
    with pytest.raises(UserError, match=r"t\.jsonl:12: the line is longer than 20 bytes"), opened(path) as stream:
        list(iter_lines(stream, path, first=10, most_bytes=20))


@pytest.mark.parametrize("name", ["missing", "x" * 300, "a\0b", "folder"])
def test_what_cannot_be_opened_is_one_message(tmp_path: Path, name: str) -> None:
    """A missing file, too long a name, a NUL and a folder each end in a ``UserError``."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        read_document(tmp_path / name)


def test_a_name_that_cannot_be_a_path_is_not_there() -> None:
    """``is_file`` and ``exists`` answer no where the path itself is impossible."""
    for name in ("x" * 5000, "a\0b", "x" * 300 + "/y"):
        assert not is_file(name)
        assert not exists(name)
    assert is_file(__file__)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff", "not UTF-8 text"),
        (b"[" * 9000, "nested too deeply"),
        (b"9" * 5000, "too many digits"),
        (b"{", "not JSON"),
        (b'{"a": NaN', "not JSON"),
    ],
)
def test_json_that_is_none_is_named_with_its_place(text: bytes, reason: str) -> None:
    """Whatever the parser or the interpreter refuses is one error that starts with the place and fits a screen."""
    with pytest.raises(UserError, match=rf"^f\.json:3: .*{reason}") as caught:
        parse_json(text, "f.json:3")
    assert len(str(caught.value)) < 300


@given(text=st.text(max_size=30).map(json.dumps) | st.binary(max_size=30))
def test_any_bytes_are_json_or_one_error(text: str | bytes) -> None:
    """No other exception leaves the parser."""
    with contextlib.suppress(UserError):
        parse_json(text, "f.json")


LARGE = ("x" * 10**6, b"x" * 10**6, list(range(10**5)), 10**5000, {"k": "v" * 10**5})


@pytest.mark.parametrize("value", LARGE, ids=range(len(LARGE)))
def test_a_shown_value_never_fills_more_than_a_line(value: object) -> None:
    """However large the value, what a message shows of it is short."""
    assert len(shown(value)) <= 60


@pytest.mark.parametrize("value", ["short", 1.5, None, [1, 2], -(2**70)])
def test_a_small_value_is_shown_whole(value: object) -> None:
    """What fits is shown as Python writes it."""
    assert shown(value) == repr(value)
