"""Trees over all shapes of a label: they complete what was measured, and stand aside where they do not win."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.load import load_cluster
from costmodel.cost_model import Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import rest_of
from costmodel.families.rows import efficiencies, row_sides
from costmodel.fit_file.label_json import label_from_json, label_to_json
from costmodel.fitted.knots import Errors, FamilyKnots, LabelFit
from costmodel.fitted.measured_rows import MeasuredRows, concatenated
from costmodel.fitting.build_knots import build_knots
from costmodel.fitting.filling import MOST_POINTS
from costmodel.fitting.holdout import held_out_errors
from costmodel.fitting.intervals import with_intervals
from costmodel.fitting.pooling import pooled
from costmodel.ops.label import Label
from costmodel.ops.op_types import Moe
from costmodel.power_model import PowerModel
from costmodel.pricing.domain import OutOfDomain
from costmodel.pricing.price_points import Pricing

_CLUSTER = load_cluster("h100-sxm-8")
_TEXT = "bf16|balanced"
_TOKENS = np.array([1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 2048, 4096.0])
_SHARDINGS = ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2), (2, 4), (4, 2))


def _true_s(rows: MeasuredRows) -> np.ndarray:
    """Launch and roofline, and another kernel, slower by a third, for every model between 64 and 256 tokens."""
    has_other = (rows.x > 64) & (rows.x <= 256)
    return np.asarray((5e-6 + np.hypot(rows.flop_s / 0.7, rows.bytes_s / 0.8)) * np.where(has_other, 4 / 3, 1.0))


def _experts(shapes: list[tuple[float, ...]]) -> MeasuredRows:
    """Rows of every shape at every number of tokens."""
    family = OP_FAMILIES["moe"]
    shape = np.repeat(np.array(shapes, dtype=np.float64), len(_TOKENS), axis=0)
    x = np.tile(_TOKENS, len(shapes))
    y, label = np.ones_like(x), np.full(len(x), _TEXT)
    flop_s, bytes_s = row_sides(family, label, shape, x, y, cluster=_CLUSTER)
    rows = MeasuredRows(
        family="moe",
        features=family.features,
        label=label,
        shape=shape,
        x=x,
        y=y,
        latency_s=np.ones_like(x),
        flop_s=flop_s,
        bytes_s=bytes_s,
        efficiency=efficiencies(family, [Label.parse(_TEXT)], _CLUSTER),
        is_estimate=np.zeros(len(x), dtype=bool),
    )
    rows.latency_s[:] = _true_s(rows)
    return rows


def _shapes(models: int) -> list[tuple[float, ...]]:
    widths = [(1024.0 * (1 + model % 6), 256.0 * (1 + model // 6)) for model in range(models)]
    return [(hidden, inter, 64.0, 4.0, tp, ep) for hidden, inter in widths for tp, ep in _SHARDINGS]


@pytest.fixture(scope="module")
def holed() -> tuple[MeasuredRows, MeasuredRows, tuple[float, ...]]:
    """Rows of 24 models of which one sharding and a fifth of the points are missing; what is missing; that sharding."""
    whole = _experts(_shapes(24))
    missing = _shapes(24)[83]
    is_gone = np.all(whole.shape == missing, axis=1) | (np.random.default_rng(1).random(len(whole.x)) < 0.2)
    return whole.take(~is_gone), whole.take(is_gone), missing


def _judged(rows: MeasuredRows) -> tuple[FamilyKnots, dict[str, Errors]]:
    knots = build_knots(rows)
    return knots, held_out_errors(rows, knots)


def test_holes_and_unmeasured_shardings_become_knots_near_the_truth(
    holed: tuple[MeasuredRows, MeasuredRows, tuple[float, ...]],
) -> None:
    """Steps that all shapes share are known in holes too; measured points stay to the bit."""
    rows, gone, missing = holed
    assert len(rows.x) > MOST_POINTS
    knots, errors = _judged(rows)
    estimates, fillings = pooled(rows, knots, errors, _CLUSTER)
    (found,) = estimates
    filling = fillings[Label.parse(_TEXT)]
    assert np.mean(np.abs(filling.errors["point"].error)) < filling.alone
    points = {(*shape, x): t for *shape, x, t in np.column_stack([found.shape, found.x, found.latency_s]).tolist()}
    error = np.log(
        [points[(*shape, x)] / t for *shape, x, t in np.column_stack([gone.shape, gone.x, gone.latency_s]).tolist()]
    )
    assert np.median(np.abs(error)) < 0.02
    assert any(key[:-1] == missing for key in points)
    whole = build_knots(concatenated([rows, *estimates]))
    measured = ~np.isnan(whole.latency_s)
    assert np.array_equal(np.sort(whole.latency_s[measured]), np.sort(rows.latency_s))
    of_missing = np.flatnonzero(np.all(whole.shape == missing, axis=1))
    assert [whole.is_measured(shape) for shape in of_missing.tolist()] == [False]
    assert whole.labels[Label.parse(_TEXT)].reference == knots.labels[Label.parse(_TEXT)].reference


def test_trees_stand_aside_where_points_are_few() -> None:
    """A label of few points is left to the process that is made for them."""
    rows = _experts(_shapes(2))
    assert pooled(rows, *_judged(rows), _CLUSTER) == ([], {})


def test_trees_stand_aside_where_curves_know_better() -> None:
    """Where every shape is its reference times a factor of its own, neighbours of the same shape tell more."""
    rows = _experts(_shapes(24))
    _, which = np.unique(rows.shape, axis=0, return_inverse=True)
    own = np.exp(np.random.default_rng(2).normal(0, 0.5, int(which.max()) + 1))[which.ravel()]
    smooth = (5e-6 + np.hypot(rows.flop_s / 0.7, rows.bytes_s / 0.8)) * own
    rows.latency_s[:] = smooth
    knots, errors = _judged(rows)
    _, fillings = pooled(rows, knots, errors, _CLUSTER)
    assert not any("point" in filling.errors for filling in fillings.values())


def test_intervals_are_wider_where_larger_calls_err_more() -> None:
    """Errors that grow with the size of a call widen the intervals of large calls alone."""
    rows = _experts(_shapes(24))
    knots, errors = _judged(rows)
    for name, found in errors.items():
        spread = (
            np.where(found.reference_s > np.quantile(found.reference_s, 0.8), 0.2, 0.01) if len(found.error) else 0.0
        )
        errors[name] = replace(found, error=spread * np.random.default_rng(3).normal(size=len(found.error)))
    fit = with_intervals(knots, errors).labels[Label.parse(_TEXT)]
    small, large = np.quantile(rows.latency_s, [0.2, 0.97])
    near = [int(np.argmin(np.abs(rows.latency_s - seconds))) for seconds in (small, large)]
    column = fit.width_class(rows.flop_s[near], rows.bytes_s[near])
    narrow, wide = fit.log_half_width[1, column]
    assert wide > 5 * narrow


def test_shapes_that_share_what_others_err_by_have_wider_intervals() -> None:
    """Where the shapes of one sharding err ten times as much, it is borrowed with a wide interval, others are not."""
    rows = _experts(_shapes(24))
    knots, errors = _judged(rows)
    sibling = errors["sibling"]
    label = Label.parse(_TEXT)
    shape = knots.shape[np.searchsorted(knots.start, knots.measured_rows(label)[sibling.place], side="right") - 1]
    errs = np.all(shape[:, rest_of(OP_FAMILIES["moe"])] == shape[0, rest_of(OP_FAMILIES["moe"])], axis=1)
    assert 0 < np.mean(errs) < 0.5
    spread = np.where(errs, 0.3, 0.03)
    errors["sibling"] = replace(sibling, error=spread * np.random.default_rng(4).normal(size=len(spread)))
    wide, narrow = shape[errs][0], shape[~errs][0]
    priced = [_half_width(knots, errors, (int(one[-2]), int(one[-1]))) for one in (wide, narrow)]
    assert 5 < priced[0] / priced[1] < 20
    even = replace(sibling, error=0.03 * np.random.default_rng(4).normal(size=len(spread)))
    factors = with_intervals(knots, {**errors, "sibling": even}).labels[label].shape_factors
    assert np.mean(np.abs(factors.rest.log_factor)) < 0.05
    assert np.mean(np.abs(factors.apart.log_factor)) < 0.05


def _half_width(knots: FamilyKnots, errors: dict[str, Errors], sharding: tuple[int, int]) -> float:
    """Mean half-width of prices of a model that was not measured under ``sharding``."""
    fitted = with_intervals(knots, errors)
    pricing = Pricing(
        cluster=_CLUSTER,
        clock_mhz=None,
        measured_mhz=_CLUSTER.device.clock.max_mhz,
        policy=OutOfDomain.ROOFLINE,
        power=PowerModel.from_device(_CLUSTER.device),
    )
    tp, ep = sharding
    op = Moe(num_tokens=_TOKENS, hidden=1536, inter=512, num_experts=64, topk=4, tp=tp, ep=ep)
    found = OP_FAMILIES["moe"].prices(OP_FAMILIES["moe"], fitted, pricing).predict(op)
    assert found is not None
    assert np.all(found.source == Source.BORROWED)
    return float(np.mean(np.log(found.high_s / found.latency_s)))


def test_a_label_of_an_older_file_has_one_size_and_no_factor() -> None:
    """What schema 3 did not know is read as what it meant: one class of size, the same interval for every shape."""
    rows = _experts(_shapes(2))
    knots = build_knots(rows)
    fit: LabelFit = knots.labels[Label.parse(_TEXT)]
    part = {
        name: value
        for name, value in label_to_json(fit).items()
        if name not in {"size_edges_s", "lent_factor", "shape_factors"}
    }
    older = label_from_json(part)
    assert (older.num_sizes, older.lent_factor, older.shape_factors.is_empty) == (1, 1.0, True)
    assert np.array_equal(older.width_class(rows.flop_s, rows.bytes_s), fit.reference.regime(rows.flop_s, rows.bytes_s))
