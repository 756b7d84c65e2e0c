"""Labels with many points, completed by one learner over all their shapes.

    ln t = ln expected(flop_s, bytes_s) + trees(sizes, work, blocks)

Libraries change kernels at sizes that hundreds of shapes have in common, which a line between two points of one shape
cannot know. Extremely randomised trees (Geurts, Ernst and Wehenkel, 2006) learn what the reference of a label misses
from all its shapes at once. What they say of holes, and of shapes that combine what was measured (other heads under
this window, another sharding of this model), becomes knots without a latency: prices need neither trees nor
scikit-learn. Measured points stay as they are.

Every label answers the held-out questions twice, by its curves and lenders, and by trees grown without the points that
are asked for, each point and each shape once; where trees do not win they stand aside. Runs in ``apex fit`` only.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.all import OP_FAMILIES
from costmodel.fitted.knots import Errors, FamilyKnots, Filling, LabelFit, joined_errors
from costmodel.fitted.measured_rows import MeasuredRows, without_repeats
from costmodel.fitting.filling import MOST_POINTS, alike_labels, estimated, rows_at
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

_TREES: Final = 40
# Fewer than that err by a twentieth more, in a quarter of the time; intervals err on the wide side.
_TREES_TO_JUDGE: Final = 10
# As many parts of the shapes, and of the points of the others, are left out one after the other to judge.
_TURNS: Final = 10
# Fewer would not say who wins.
_FEWEST_POINTS: Final = 500
# A size counts as one of the label's where so many of its shapes were measured at it.
_COMMON: Final = 0.25
# New shapes are at most so many for each that was measured.
_MOST_NEW: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A label whose trees are judged: its measured points, and the number of each one's shape."""

    label: Label
    fit: LabelFit
    rows: MeasuredRows
    shape: NDArray[np.int64]
    new_shapes: Array  # [shapes, features]

    def errors(self, found: Array, asked: NDArray[np.bool_]) -> Errors:
        """Errors of ``found`` ln seconds at the rows that are ``asked``."""
        part, reference = self.rows.take(asked), self.fit.reference
        return Errors(
            label=part.label,
            place=np.flatnonzero(asked),
            shape=self.shape[asked],
            regime=reference.regime(part.flop_s, part.bytes_s),
            reference_s=reference.seconds(part.flop_s, part.bytes_s),
            error=found - np.log(part.latency_s),
        )


def pooled(
    rows: MeasuredRows, knots: FamilyKnots, errors: dict[str, Errors], cluster: ClusterSpec
) -> tuple[list[MeasuredRows], dict[Label, Filling]]:
    """Return estimates for the labels that have too many points for `costmodel.fitting.filling` and gain by trees.

    ``knots`` and ``errors`` are what ``rows`` give by themselves. The fillings say how each label was judged.
    """
    estimates: list[MeasuredRows] = []
    fillings: dict[Label, Filling] = {}
    rows = without_repeats(rows)
    for group in alike_labels(knots):
        if np.count_nonzero(np.isin(rows.label, [label.text for label in group])) <= MOST_POINTS:
            continue
        for label in group:
            own = rows.take(rows.label == label.text)
            if len(own.x) < _FEWEST_POINTS:
                continue
            _, shape = np.unique(own.shape, axis=0, return_inverse=True)
            question = _Question(
                label=label,
                fit=knots.labels[label],
                rows=own,
                shape=shape.ravel(),
                new_shapes=_new_shapes(own),
            )
            found = _completed(question, {name: part.of_label(label.text) for name, part in errors.items()}, cluster)
            if found is not None:
                estimates.append(found[0])
                fillings[label] = found[1]
    return estimates, fillings


def _completed(asked: _Question, alone: dict[str, Errors], cluster: ClusterSpec) -> tuple[MeasuredRows, Filling] | None:
    """Judge trees on one label; return their estimates where they win, and what the label's errors are then."""
    points = {
        "point": _unknown_points(asked.rows, np.unique(asked.rows.shape, axis=0)),
        "sibling": _unknown_points(asked.rows, asked.new_shapes),
    }
    if not any(map(len, points.values())):
        return None
    by_trees = _judged(asked)
    won = {question: errors for question, errors in by_trees.items() if _missed(errors) < _missed(alone[question])}
    wanted = np.concatenate([points["point"][:0], *(points[question] for question in points if question in won)])
    if not len(wanted):
        return None
    filling = Filling(trust=0.0, alone=_missed(alone["point"]), errors=won)
    return _estimates(asked, wanted, cluster), filling


def _missed(errors: Errors) -> float:
    """Mean |ln(predicted / measured)|, infinite where nothing could be asked."""
    return float(np.mean(np.abs(errors.error))) if len(errors.error) else np.inf


def _judged(asked: _Question) -> dict[str, Errors]:
    """Errors of trees at points that were left out when they were grown, and at shapes that were."""
    parts: dict[str, list[Errors]] = {}
    for left_out in _left_out(asked.shape, has_siblings=len(asked.new_shapes) > 0):
        grown = _grown(asked.rows.take(left_out == ""), asked.fit, _TREES_TO_JUDGE)
        for question in np.unique(left_out[left_out != ""]).tolist():
            own = left_out == question
            parts.setdefault(question, []).append(asked.errors(_log_s(grown, asked.rows.take(own), asked.fit), own))
    return {question: joined_errors(found) for question, found in parts.items()}


def _left_out(shape: NDArray[np.int64], *, has_siblings: bool) -> Iterator[NDArray[np.str_]]:
    """Draw what is left out in each turn: rows name the question that they answer, most none.

    Every row answers each question in one turn. Errors of a shape have a cause in common: of a few shapes alone nobody
    would know how wide they scatter.
    """
    draw = np.random.default_rng(0)
    number = np.arange(int(shape.max()) + 1) % _TURNS
    of_shape = draw.permutation(number)[shape]
    # Never the turn in which the row is left out with its shape.
    of_point = (of_shape + draw.integers(1, _TURNS, len(shape))) % _TURNS
    for turn in range(_TURNS):
        found = np.where(of_point == turn, "point", "")
        yield np.where(of_shape == turn, "sibling", found) if has_siblings else found


def _new_shapes(rows: MeasuredRows) -> Array:
    """Shapes that combine what was measured: values in which shapes are apart with values of all other features."""
    shapes = np.unique(rows.shape, axis=0)
    apart = list(OP_FAMILIES[rows.family].apart)
    rest = [index for index in range(shapes.shape[1]) if index not in apart]
    if not rest:
        return shapes[:0]
    heads = np.unique(shapes[:, apart], axis=0)
    tails, count = np.unique(shapes[:, rest], axis=0, return_counts=True)
    tails = tails[np.argsort(-count, kind="stable")]
    new = np.empty((len(tails) * len(heads), shapes.shape[1]))
    new[:, apart] = np.tile(heads, (len(tails), 1))
    new[:, rest] = np.repeat(tails, len(heads), axis=0)
    known = {tuple(shape) for shape in shapes.tolist()}
    new = new[[tuple(shape) not in known for shape in new.tolist()]]
    return new[: _MOST_NEW * len(shapes)]


def _unknown_points(rows: MeasuredRows, shapes: Array) -> Array:
    """Points [points, features + 2] of ``shapes`` at the label's common sizes that were not measured."""
    x, y = _common(rows.x, rows.shape), _common(rows.y, rows.shape)
    sizes = np.column_stack([np.repeat(x, len(y)), np.tile(y, len(x))])
    points = np.column_stack([np.repeat(shapes, len(sizes), axis=0), np.tile(sizes, (len(shapes), 1))])
    measured = {tuple(point) for point in np.column_stack([rows.shape, rows.x, rows.y]).tolist()}
    return points[np.array([tuple(point) not in measured for point in points.tolist()], dtype=np.bool_)]


def _common(size: Array, shape: Array) -> Array:
    """Sizes at which a good part of the shapes was measured."""
    at_size = np.unique(np.column_stack([size, shape]), axis=0)
    values, count = np.unique(at_size[:, 0], return_counts=True)
    return np.asarray(values[count >= _COMMON * len(np.unique(shape, axis=0))])


def _estimates(asked: _Question, points: Array, cluster: ClusterSpec) -> MeasuredRows:
    """Rows of what trees grown on all points say."""
    new = rows_at(points, asked.rows, cluster)
    return estimated(new, _log_s(_grown(asked.rows, asked.fit, _TREES), new, asked.fit), asked.fit)


def _grown(rows: MeasuredRows, fit: LabelFit, trees: int) -> "ExtraTreesRegressor":
    from sklearn.ensemble import ExtraTreesRegressor

    grown = ExtraTreesRegressor(n_estimators=trees, random_state=0)
    grown.fit(_seen_of(rows), np.log(rows.latency_s) - fit.expected_log_s(rows.flop_s, rows.bytes_s))
    return grown


def _log_s(grown: "ExtraTreesRegressor", rows: MeasuredRows, fit: LabelFit) -> Array:
    return np.asarray(fit.expected_log_s(rows.flop_s, rows.bytes_s) + grown.predict(_seen_of(rows)))


def _seen_of(rows: MeasuredRows) -> Array:
    """Return what trees see of a call, in octaves: its sizes, its work, and the blocks that kernels cut it into."""
    blocks = OP_FAMILIES[rows.family].blocks
    counts = [rows.shape, rows.x, rows.y, *([] if blocks is None else [blocks(rows.shape, rows.x)])]
    work = np.column_stack([rows.flop_s, rows.bytes_s])
    tiny = np.finfo(np.float32).tiny  # trees keep their features so; an op may have no work of one kind
    return np.column_stack([np.log2(np.column_stack(counts) + 1.0), np.log2(work + tiny)])
