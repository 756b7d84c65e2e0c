"""Images and audio in traces and options: read, drawn, written and refused."""

from pathlib import Path

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.workload.generators.media import parse_audio, parse_images, with_media
from simulator.workload.parse import parse_workload
from simulator.workload.parse_parts import parse_parts
from simulator.workload.traces.own_files import write_trace
from simulator.workload.traces.read_trace import read_trace

TRACE = """\
{"arrival_s": 0.0, "prompt_tokens": 30, "output_tokens": 20, "images": [[1024, 768], [640, 480]], "audio_s": []}
{"arrival_s": 1.0, "prompt_tokens": 31, "output_tokens": 20, "images": [], "audio_s": [2.5]}
"""


@pytest.fixture(name="trace")
def _trace(tmp_path: Path) -> Path:
    path = tmp_path / "seen.jsonl"
    path.write_text(TRACE)
    return path


def test_a_trace_states_images_and_clips_of_each_request(trace: Path) -> None:
    """Lists of sizes and of seconds; an empty list is a request without."""
    media = read_trace(trace).media
    assert media is not None
    assert media.lists() == ([[[1024, 768], [640, 480]], []], [[], [2.5]])
    assert not media.are_counted
    first = read_trace(trace, limit=1).media
    assert first is not None
    assert first.lists() == ([[[1024, 768], [640, 480]]], [[]])


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_is_written_is_read_again(trace: Path, tmp_path: Path, suffix: str) -> None:
    """Images, clips and whether prompts count them survive both containers."""
    head = '{"apex_workload": 1, "prompt_counts_media": true}\n'
    trace.write_text(head + TRACE)
    read = read_trace(trace)
    write_trace(read, tmp_path / f"copy.{suffix}")
    again = read_trace(tmp_path / f"copy.{suffix}")
    assert read.media is not None
    assert again.media is not None
    assert again.media.lists() == read.media.lists()
    assert again.media.are_counted
    with pytest.raises(UserError, match="csv cannot hold"):
        write_trace(read, tmp_path / "copy.csv")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("[[0, 768]]", r"seen.jsonl:1: an image of images is \[0, 768\], must be \[width, height\]"),
        ("[[1024]]", r"must be \[width, height\] in pixels"),
        ("[[1.5, 2]]", r"must be \[width, height\] in pixels"),
        ("3", "must be a list of images"),
    ],
)
def test_an_image_that_cannot_be_is_named(trace: Path, images: str, said: str) -> None:
    """A size of zero, a side alone, half a pixel, a bare number: file, line, value and limit."""
    trace.write_text(TRACE.replace("[[1024, 768], [640, 480]]", images))
    with pytest.raises(UserError, match=said):
        read_trace(trace)


def test_a_clip_that_cannot_be_is_named(trace: Path) -> None:
    """No length of audio is below zero."""
    trace.write_text(TRACE.replace("2.5", "-2.5"))
    with pytest.raises(UserError, match=r"seen.jsonl:2: a clip of audio_s is -2.5, must be seconds"):
        read_trace(trace)


def test_options_give_every_request_media() -> None:
    """Counts and sizes are drawn from the ranges, the same ones each time; a fixed size is in every request."""
    fixed = parse_workload("synthetic:isl=9,osl=9,n=50", images="1:640x480").media
    assert fixed is not None
    assert fixed.lists()[0] == [[[640, 480]]] * 50
    drawn = [parse_workload("synthetic:isl=9,osl=9,n=400", images="0-3:640x480|8x9").media for _ in range(2)]
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert drawn[0].lists() == drawn[1].lists()
    counts = np.diff(drawn[0].image_offsets)
    assert set(counts.tolist()) == {0, 1, 2, 3}
    assert set(drawn[0].width.tolist()) == {640, 8}
    clips = parse_workload("synthetic:isl=9,osl=9,n=400", audio_s="5-30").media
    assert clips is not None
    assert 5 <= clips.audio_s.min() < 8
    assert 27 < clips.audio_s.max() <= 30


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1024x1024", "must be a number of images and their size"),
        ("1:0x5", "an image of 0x5, sides must be 1 to 100000"),
        ("3-1:5x5", "a range ascending"),
        ("0:5x5", "the number must be 1"),
        ("1:5x999999", "sides must be 1 to 100000"),
    ],
)
def test_the_text_of_images_is_checked(text: str, said: str) -> None:
    """A size alone, a side of zero, a range that falls, no image at all: each by name."""
    with pytest.raises(UserError, match=said):
        parse_images(text)


@pytest.mark.parametrize("text", ["0", "x", "30-5", "-3", "1e9", "100000"])
def test_the_text_of_audio_is_checked(text: str) -> None:
    """Seconds above zero, ascending, of a day at most."""
    with pytest.raises(UserError, match="--audio-s"):
        parse_audio(text)


def test_media_are_stated_once(trace: Path) -> None:
    """A trace's own images are not added to; media keep a workload from being streamed."""
    with pytest.raises(UserError, match="its requests state their own images"):
        with_media(read_trace(trace), "1:5x5", None)
    with pytest.raises(UserError, match="cannot be streamed: requests with images or audio"):
        parse_parts(str(trace))
    with pytest.raises(UserError, match="cannot be streamed: requests with images or audio"):
        parse_parts("synthetic:chat,n=9", images="1:5x5")
