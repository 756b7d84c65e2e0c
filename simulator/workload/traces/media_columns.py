"""Columns of images and audio in a trace: lists of [width, height] in pixels, and of seconds."""

from collections.abc import Sequence
from typing import Any, Final

from cluster_specs.files.shown import shown
from simulator.workload.columns import RawChunk, objects
from simulator.workload.items import LONGEST_CLIP_S, MOST_IMAGES, MOST_SIDE

MEDIA_KEYS: Final = frozenset({"images", "audio_s"})

Sizes = Sequence[Sequence[tuple[int, int]]]


def image_sizes(chunk: RawChunk, key: str) -> Sizes:
    """Return the images of each record as (width, height); raises ``UserError`` naming the record."""
    found: list[list[tuple[int, int]]] = []
    for index, row in enumerate(objects(chunk.values[key])):
        sizes = _listed(chunk, index, key, row, "images, like [[1024, 768]]")
        for size in sizes:
            is_pair = isinstance(size, list) and len(size) == 2 and set(map(type, size)) == {int}
            if not is_pair or not all(1 <= side <= MOST_SIDE for side in size):
                must = f"[width, height] in pixels, whole numbers from 1 to {MOST_SIDE}"
                raise chunk.refuse(index, f"an image of {key}", size, must)
        found.append([(width, height) for width, height in sizes])
    return found


def clip_lengths(chunk: RawChunk, key: str) -> Sequence[Sequence[float]]:
    """Return the clips of each record in seconds; raises ``UserError`` naming the record."""
    found: list[list[float]] = []
    for index, row in enumerate(objects(chunk.values[key])):
        clips = _listed(chunk, index, key, row, "seconds, like [30.0]")
        for seconds in clips:
            if type(seconds) not in {int, float} or not 0 < seconds <= LONGEST_CLIP_S:
                raise chunk.refuse(
                    index, f"a clip of {key}", seconds, f"seconds, above 0 and at most {LONGEST_CLIP_S:g}"
                )
        found.append([float(seconds) for seconds in clips])
    return found


def _listed(chunk: RawChunk, index: int, key: str, row: object, of: str) -> list[Any]:
    if not isinstance(row, list):
        raise chunk.refuse(index, key, shown(row), f"a list of {of}, empty for none")
    if len(row) > MOST_IMAGES:
        raise chunk.refuse(index, key, f"{len(row)} entries", f"at most {MOST_IMAGES}")
    return row
