"""Images and audio for requests that state none: how many, and how large, from one line of text.

1:1024x1024                 one image of that size in every request
0-3:1024x768|640x480        none to three, each of one of the sizes; counts and sizes drawn uniformly
30   5-30                   one clip of so many seconds in every request, or of a length drawn between two
"""

import re
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.generators.arrivals import random_stream
from simulator.workload.items import LONGEST_CLIP_S, MOST_IMAGES, MOST_SIDE, Media
from simulator.workload.workload import Workload

_IMAGES: Final = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?:(\d{1,9}x\d{1,9}(?:\|\d{1,9}x\d{1,9})*)")
_NUMBER: Final = r"(\d{1,9}(?:\.\d{1,9})?)"
_SECONDS: Final = re.compile(rf"{_NUMBER}(?:-{_NUMBER})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images of a request: their number from ``least`` to ``most``, each of one of ``sizes`` (width, height)."""

    least: int
    most: int
    sizes: tuple[tuple[int, int], ...]


def parse_images(text: str) -> Images:
    """Read the text of ``--images``; raises ``UserError`` naming the part that cannot be meant."""
    found = _IMAGES.fullmatch(text.strip())
    if found is None:
        raise UserError(
            f"--images is {shown(text)}, must be a number of images and their size",
            hint="e.g. 1:1024x1024, or 0-3:1024x768|640x480",
        )
    least, most = int(found[1]), int(found[2] or found[1])
    sizes = tuple((int(width), int(height)) for width, height in (size.split("x") for size in found[3].split("|")))
    if not 0 <= least <= most <= MOST_IMAGES or most == 0:
        raise UserError(f"--images is {shown(text)}: the number must be 1 to {MOST_IMAGES}, a range ascending")
    for width, height in sizes:
        if not (1 <= width <= MOST_SIDE and 1 <= height <= MOST_SIDE):
            raise UserError(f"--images has an image of {width}x{height}, sides must be 1 to {MOST_SIDE} pixels")
    return Images(least=least, most=most, sizes=sizes)


def parse_audio(text: str) -> tuple[float, float]:
    """Read the text of ``--audio-s``: the shortest and the longest clip in seconds; raises ``UserError``."""
    found = _SECONDS.fullmatch(text.strip())
    if found is None:
        raise UserError(f"--audio-s is {shown(text)}, must be seconds like 30, or a range like 5-30")
    shortest, longest = float(found[1]), float(found[2] or found[1])
    if not 0 < shortest <= longest <= LONGEST_CLIP_S:
        raise UserError(
            f"--audio-s is {shown(text)}: clips must be above 0 and at most {LONGEST_CLIP_S:g} s, ascending"
        )
    return shortest, longest


def with_media(workload: Workload, images: str | None, audio_s: str | None) -> Workload:
    """Give every request of a workload the images and the clip that the texts of the options describe.

    Raises ``UserError`` where its requests have images or audio of their own.
    """
    if images is None and audio_s is None:
        return workload
    if workload.media is not None:
        raise UserError(
            f"{workload.name}: its requests state their own images and audio",
            hint="leave --images and --audio-s out",
        )
    n = len(workload)
    image_counts, clips = np.zeros(n, dtype=np.int64), np.zeros(0)
    sizes = np.zeros((0, 2), dtype=np.int64)
    if images is not None:
        image_counts, sizes = _drawn_images(parse_images(images), n)
    if audio_s is not None:
        shortest, longest = parse_audio(audio_s)
        clips = random_stream(0, "audio").uniform(shortest, longest, n)
    media = Media(
        image_offsets=np.concatenate([[0], np.cumsum(image_counts)]),
        width=sizes[:, 0],
        height=sizes[:, 1],
        clip_offsets=np.arange(n + 1) if audio_s is not None else np.zeros(n + 1, dtype=np.int64),
        audio_s=clips,
    )
    return replace(workload, media=media)


def _drawn_images(images: Images, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    stream = random_stream(0, "images")
    counts = stream.integers(images.least, images.most, n, endpoint=True)
    chosen = stream.integers(0, len(images.sizes), int(counts.sum()))
    return counts, np.array(images.sizes, dtype=np.int64)[chosen]
