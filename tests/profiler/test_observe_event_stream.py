"""Server-sent events are found wherever the stream is cut."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.observe.event_stream import EventReader, StreamDefect

_STREAM = b': ping\n\ndata: {"a": 1}\n\nevent: token\nid: 7\ndata: {"b":\ndata:  2}\n\ndata:[DONE]\r\n\r\ndata: last'
_EVENTS = [b'{"a": 1}', b'{"b":\n 2}', b"[DONE]", b"last"]


@given(st.sets(st.integers(1, len(_STREAM) - 1)))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: set[int]) -> None:
    """Any way of cutting a stream into pieces gives the same events; the end completes the last one."""
    reader = EventReader()
    edges = [0, *sorted(cuts), len(_STREAM)]
    pieces = [_STREAM[low:high] for low, high in pairwise(edges)]
    assert [event for piece in pieces for event in reader.feed(piece)] + reader.close() == _EVENTS


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_a_defect(content: bytes) -> None:
    """Whatever a server sends, the reader gives events or says that it is none."""
    reader = EventReader()
    with contextlib.suppress(StreamDefect):
        assert all(isinstance(event, bytes) for event in reader.feed(content) + reader.close())


def test_an_event_without_an_end_is_refused() -> None:
    """A line that never ends is not gathered without limit."""
    reader = EventReader()
    reader.feed(b"data: " + b"x" * 3_000_000)
    with pytest.raises(StreamDefect, match="an event of over"):
        reader.feed(b"x" * 3_000_000)
