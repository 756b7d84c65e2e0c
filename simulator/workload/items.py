"""Images and audio of requests: as a trace states them, and as the encoder of a model runs them.

A trace knows sizes, a model what a size costs. ``Media`` holds the first, ``EncoderItems`` the second: which of a
request's prompt tokens an item becomes, and how much its encoder works for that. `simulator.model.bind_workload` makes
one of the other; the engine takes only the second.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass

I64 = NDArray[np.int64]
MOST_SIDE: Final = 100_000  # pixels of an image's side
MOST_IMAGES: Final = 10_000  # images, or clips, of one request
LONGEST_CLIP_S: Final = 86_400.0
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Images, then audio clips of each request, in the order in which its prompt holds them.

    ``are_counted``: ``prompt_tokens`` of the workload count the tokens that these become; else they count text alone.
    """

    image_offsets: I64  # [n + 1]: request i has images offsets[i] to offsets[i + 1]
    width: I64  # [images] pixels
    height: I64
    clip_offsets: I64  # [n + 1]
    audio_s: F64  # [clips] seconds
    are_counted: bool = False

    @classmethod
    def of_requests(
        cls,
        images: Sequence[Sequence[tuple[int, int]]],
        audio_s: Sequence[Sequence[float]],
        *,
        are_counted: bool = False,
    ) -> "Media":
        """Lay out the images, as (width, height), and the clips of each request."""
        sizes = np.array([size for request in images for size in request], dtype=np.int64).reshape(-1, 2)
        return cls(
            image_offsets=_offsets([len(request) for request in images]),
            width=sizes[:, 0],
            height=sizes[:, 1],
            clip_offsets=_offsets([len(request) for request in audio_s]),
            audio_s=np.array([seconds for request in audio_s for seconds in request], dtype=np.float64),
            are_counted=are_counted,
        )

    @property
    def images(self) -> int:
        """Images of all requests."""
        return len(self.width)

    @property
    def clips(self) -> int:
        """Audio clips of all requests."""
        return len(self.audio_s)

    def lists(self) -> tuple[list[list[list[int]]], list[list[float]]]:
        """Return images as [width, height] and clips of each request, as a trace states them."""
        sizes = np.stack([self.width, self.height], axis=1).tolist()
        seconds = self.audio_s.tolist()
        return (
            [sizes[first:end] for first, end in pairwise(self.image_offsets.tolist())],
            [seconds[first:end] for first, end in pairwise(self.clip_offsets.tolist())],
        )

    def head(self, count: int) -> "Media":
        """Return those of the first ``count`` requests."""
        images, clips = int(self.image_offsets[count]), int(self.clip_offsets[count])
        return Media(
            image_offsets=self.image_offsets[: count + 1],
            width=self.width[:images],
            height=self.height[:images],
            clip_offsets=self.clip_offsets[: count + 1],
            audio_s=self.audio_s[:clips],
            are_counted=self.are_counted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderItems:
    """What the encoder runs for each request; items of one request in the order of its prompt."""

    offsets: I64  # [n + 1]: request i has items offsets[i] to offsets[i + 1]
    start: I64  # [items] first prompt token that needs the item
    end: I64  # prompt token behind the last one that does
    embeds: I64  # rows the encoder hands over, which budgets count
    tokens: I64  # tokens the encoder runs
    pairs: I64  # of its tokens that see each other, over all windows and tiles of one layer with full attention

    def __len__(self) -> int:
        return len(self.start)

    def first_starts(self) -> I64:
        """Return the start of the first item of the request that each item belongs to."""
        counts = np.diff(self.offsets)
        return np.repeat(self.start[self.offsets[:-1][counts > 0]], counts[counts > 0])

    def of_answered(self, is_finished: NDArray[np.bool_]) -> int:
        """Count the items of the requests that were answered."""
        return int(np.diff(self.offsets)[is_finished].sum())

    def head(self, count: int) -> "EncoderItems":
        """Return those of the first ``count`` requests."""
        last = int(self.offsets[count])
        columns = {name: getattr(self, name)[:last] for name in ("start", "end", "embeds", "tokens", "pairs")}
        return EncoderItems(offsets=self.offsets[: count + 1], **columns)


def _offsets(counts: Sequence[int]) -> I64:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)
