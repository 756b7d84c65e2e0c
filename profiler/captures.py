"""Which kinds of kernels a CUDA graph can record, by what became of the captures that were tried.

One failure may be the shape's: an algorithm that synchronises for it, a workspace that had to grow. So a kind is tried
again at another shape, in a fresh process, because a failed capture can leave its own process unable to make any. After
two shapes that failed and none that did not, the kind is given up: its other points run eagerly.
"""

from typing import Final

from profiler.point import Point, Value

KernelKind = tuple[Value, ...]
_TRIES: Final = 2


def kind_of(point: Point) -> KernelKind:
    """Return what a kernel is apart from sizes: its backend, format and the labels of its shape."""
    labels = (value for value in point.op.values if isinstance(value, str | bool))
    return (point.family, point.backend, point.op.dtype, *labels)


class CaptureRecord:
    """Captures that were tried, by kind."""

    __slots__ = ("_failed", "_succeeded")

    def __init__(self) -> None:
        self._failed: dict[KernelKind, set[tuple[Value, ...]]] = {}
        self._succeeded: set[KernelKind] = set()

    def succeeded(self, point: Point) -> None:
        """Learn that a graph of the point's calls was recorded."""
        self._succeeded.add(kind_of(point))

    def failed(self, point: Point) -> None:
        """Learn that none could be."""
        self._failed.setdefault(kind_of(point), set()).add(point.op.values)

    def is_given_up(self, point: Point) -> bool:
        """Whether no further point of its kind is tried."""
        kind = kind_of(point)
        return kind not in self._succeeded and len(self._failed.get(kind, ())) >= _TRIES

    def wants_fresh_process(self, point: Point) -> bool:
        """Whether the next try of its kind is to be made by another process: the failures may be this one's."""
        kind = kind_of(point)
        return kind not in self._succeeded and 0 < len(self._failed.get(kind, ())) < _TRIES
