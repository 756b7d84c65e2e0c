"""What a fit learns about one op family: measured points of each shape as residuals of a reference time.

A *shape* is everything about an op but its running sizes (a GEMM's n and k; an attention's heads); its *knots* are the
points measured over the running sizes ``x`` (tokens, bytes) and, for attention, ``y`` (sequence length). Each knot
keeps its latency and its log residual

    residual = ln(latency / reference_s) - trend(ln reference_s)

where the trend is the running median over all shapes of one label. Residuals are interpolated, held beyond the ends,
and lent to shapes that were not measured; the reference and the trend carry the physics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import Source
from costmodel.fitted.reference import REGIMES, Reference
from costmodel.fitted.shape_factors import ShapeFactors
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """ln(predicted / measured) of held-out points, each with its label, shape number, regime and reference time.

    ``place`` is its number among the measured points of its label, in the order of the knots, which estimates between
    them do not change.
    """

    label: NDArray[np.str_]
    place: NDArray[np.int64]
    shape: NDArray[np.int64]
    regime: NDArray[np.int8]
    reference_s: Array
    error: Array

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Errors":
        """Keep some points."""
        return Errors(
            label=self.label[rows],
            place=self.place[rows],
            shape=self.shape[rows],
            regime=self.regime[rows],
            reference_s=self.reference_s[rows],
            error=self.error[rows],
        )

    def of_label(self, label: str) -> "Errors":
        """Keep the points of one label."""
        return self.take(self.label == label)


def joined_errors(parts: Sequence[Errors]) -> Errors:
    """Put errors one behind the other."""
    return Errors(
        label=np.concatenate([part.label for part in parts]),
        place=np.concatenate([part.place for part in parts]),
        shape=np.concatenate([part.shape for part in parts]),
        regime=np.concatenate([part.regime for part in parts]),
        reference_s=np.concatenate([part.reference_s for part in parts]),
        error=np.concatenate([part.error for part in parts]),
    )


def places(label: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return the number of each row within its label, from 0 on."""
    order = np.argsort(label, kind="stable")
    begins = np.append(True, label[order][1:] != label[order][:-1])[: len(order)]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) - first
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How a label was completed from all its shapes together, and how wrong that is per held-out question.

    ``errors`` are of the questions that estimates answer better than curves and lenders; a file read for its prices
    alone has none.

    ``trust`` is the weight of the prior fit's prices, 0 where the label's own shapes were enough; ``alone`` is the mean
    |ln(predicted / measured)| of a point left out of its curve, infinite where most curves have too few to tell. Labels
    with few points are completed by `costmodel.fitting.filling`, others by `costmodel.fitting.pooling`.
    """

    trust: float
    alone: float
    errors: Mapping[str, Errors]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFit:
    """What all shapes of one label share.

    ``log_half_width`` [source, regime x size] is the 90 % interval's half-width in natural log; sizes are classes of
    the reference time, with ``size_edges_s`` between them (none in older fits). It is ``lent_factor`` times as wide for
    a shape of which not even a sibling was measured (`costmodel.families.family.siblings`); ``shape_factors`` tell
    shapes that err more than the others of their size from those that err less. ``best_utilisation`` is the
    largest share of the stated peaks that a measured call reached. It is above 1 where operands lay in a cache, which
    is faster than memory: an estimate may then be as much faster than the roofline, and no more. ``trust_along_x`` is
    the weight of a grid's x lines against its y lines when a hole is filled, chosen by which had the smaller error
    where both know a cell.
    """

    reference: Reference
    trend_log_s: Array
    trend: Array
    best_utilisation: float = 1.0
    trust_along_x: float = 0.5
    log_half_width: Array = field(default_factory=lambda: np.full((len(Source), len(REGIMES)), 0.3))
    size_edges_s: Array = field(default_factory=lambda: np.zeros(0))
    lent_factor: float = 1.0
    shape_factors: ShapeFactors = field(default_factory=ShapeFactors)
    filling: Filling | None = None

    def expected_log_s(self, flop_s: Array, bytes_s: Array) -> Array:
        """Log of reference time times trend."""
        log_s = np.log(self.reference.seconds(flop_s, bytes_s))
        return np.asarray(log_s + np.interp(log_s, self.trend_log_s, self.trend))

    @property
    def num_sizes(self) -> int:
        """Classes of size that intervals tell apart."""
        return len(self.size_edges_s) + 1

    def size_of(self, reference_s: Array) -> NDArray[np.int64]:
        """Return the class of size of each reference time."""
        return np.asarray(np.searchsorted(self.size_edges_s, reference_s, side="right"))

    def width_class(self, flop_s: Array, bytes_s: Array) -> NDArray[np.int64]:
        """Return the column of ``log_half_width`` that calls of these work times fall into."""
        size = self.size_of(self.reference.seconds(flop_s, bytes_s))
        return np.asarray(self.reference.regime(flop_s, bytes_s).astype(np.int64) * self.num_sizes + size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """What measured calls of a derived kind took relative to their derived price, and how far they scatter."""

    factor: float
    log_half_width: float
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyKnots:
    """Knots of one family, grouped by shape; shape ``s`` owns rows ``start[s]:start[s + 1]``, ascending in x, then y.

    Rows of a family with ``y`` form a full grid per shape; points that were not measured hold a filled-in residual and
    a NaN latency. ``derived`` corrects calls that have no knots of their own but follow from those that do, by kind.
    """

    family: str
    features: tuple[str, ...]
    label: tuple[Label, ...]  # [shapes]
    shape: Array  # [shapes, features]
    start: NDArray[np.int64]  # [shapes + 1]
    x: Array
    y: Array
    latency_s: Array
    residual: Array
    labels: dict[Label, LabelFit]
    derived: dict[str, Derived] = field(default_factory=dict)
    _by_label: dict[Label, NDArray[np.int64]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        runs: dict[Label, list[NDArray[np.int64]]] = {}
        for shapes in self.label_runs():
            runs.setdefault(self.label[shapes.start], []).append(np.arange(shapes.start, shapes.stop, dtype=np.int64))
        found = {label: np.concatenate(own) for label, own in runs.items()}
        object.__setattr__(self, "_by_label", found)

    def label_runs(self) -> Iterator[slice]:
        """Yield stretches of shapes that have one label; most labels have one."""
        first, labels = 0, self.label
        for shape, label in enumerate(labels):
            after = labels[shape + 1] if shape + 1 < len(labels) else None
            # Files and fits have one value for all shapes of a label, which is told at once.
            if after is not label and after != label:
                yield slice(first, shape + 1)
                first = shape + 1

    @property
    def num_shapes(self) -> int:
        """Shapes measured."""
        return len(self.label)

    @property
    def label_text(self) -> NDArray[np.str_]:
        """Text of each shape's label [shapes]."""
        return np.array([label.text for label in self.label], dtype=np.str_)

    def rows(self, shape: int) -> slice:
        """Rows of one shape."""
        return slice(int(self.start[shape]), int(self.start[shape + 1]))

    def is_measured(self, shape: int) -> bool:
        """Whether anything of a shape was measured; a shape that only the prior knew was not."""
        return not bool(np.isnan(self.latency_s[self.rows(shape)]).all())

    @property
    def labels_of_shapes(self) -> frozenset[Label]:
        """Labels that have shapes."""
        return frozenset(self._by_label)

    def of_label(self, label: Label) -> NDArray[np.int64]:
        """Return the shapes of one label."""
        return self._by_label.get(label, np.zeros(0, dtype=np.int64))

    def measured_rows(self, label: Label) -> NDArray[np.int64]:
        """Return the rows of a label that were measured, in order: the places of ``Errors``."""
        rows = [np.arange(self.start[shape], self.start[shape + 1]) for shape in self.of_label(label).tolist()]
        found = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
        return np.asarray(found[~np.isnan(self.latency_s[found])], dtype=np.int64)


def with_labels(knots: FamilyKnots, labels: Sequence[Label]) -> FamilyKnots:
    """Return the shapes of ``labels`` alone."""
    chosen = set(labels)
    keep = np.flatnonzero([label in chosen for label in knots.label])
    rows = np.concatenate([np.arange(knots.start[i], knots.start[i + 1]) for i in keep])
    return replace(
        knots,
        label=tuple(knots.label[i] for i in keep),
        shape=knots.shape[keep],
        start=np.concatenate([[0], np.cumsum(np.diff(knots.start)[keep])]).astype(np.int64),
        x=knots.x[rows],
        y=knots.y[rows],
        latency_s=knots.latency_s[rows],
        residual=knots.residual[rows],
        labels={name: fit for name, fit in knots.labels.items() if name in chosen},
    )
