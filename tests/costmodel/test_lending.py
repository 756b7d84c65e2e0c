"""Who lends to a shape that was not measured."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from costmodel.families.all import OP_FAMILIES
from costmodel.families.lending import Lenders, curve_residual, lenders
from costmodel.fitted.knots import FamilyKnots
from costmodel.fitted.measured_rows import MeasuredRows
from costmodel.fitting.build_knots import build_knots
from costmodel.ops.label import Label

Array = NDArray[np.float64]
NK = tuple(product((64.0, 128.0, 512.0), (64.0, 256.0, 1024.0)))


def knots_of(family: str, features: tuple[str, ...], shapes: tuple[tuple[float, ...], ...]) -> FamilyKnots:
    """Build knots whose every point takes the same time, at three sizes."""
    x = np.tile([1.0, 8.0, 64.0], len(shapes))
    count = len(x)
    return build_knots(
        MeasuredRows(
            family=family,
            features=features,
            label=np.full(count, "a"),
            shape=np.repeat(np.array(shapes, dtype=np.float64), 3, axis=0),
            x=x,
            y=np.ones(count),
            latency_s=1e-5 * (1 + 0.01 * np.arange(count)),
            flop_s=np.full(count, 1e-6),
            bytes_s=np.full(count, 1e-6),
            efficiency={"a": (0.5, 0.5)},
            is_estimate=np.zeros(count, dtype=bool),
        )
    )


def lenders_of(knots: FamilyKnots, shape: Array, excluded: NDArray[np.bool_] | None = None) -> Lenders:
    """Choose who lends to a shape of the one label."""
    return lenders(OP_FAMILIES[knots.family], knots, Label(("a",)), shape, excluded=excluded)


@given(n=st.floats(16, 4096), k=st.floats(16, 8192))
def test_gemm_weights_are_a_mean_of_measured_shapes(n: float, k: float) -> None:
    """For any (n, k) the weights are non-negative and sum to one."""
    lent = lenders_of(knots_of("gemm", ("n", "k"), NK), np.array([n, k]))
    assert np.all(lent.weights >= 0)
    assert lent.weights.sum() == pytest.approx(1.0)


def test_gemm_between_four_shapes_is_bilinear_in_logs() -> None:
    """Half way in log n and log k all four corners weigh a quarter."""
    lent = lenders_of(knots_of("gemm", ("n", "k"), NK), np.array([256.0, 512.0]))
    assert sorted(lent.weights.tolist()) == pytest.approx([0.25] * 4)


def test_gemm_on_a_measured_line_borrows_along_both_axes() -> None:
    """A missing (n, k) whose n and k were both measured trusts its k line 0.7 and its n line 0.3."""
    knots = knots_of("gemm", ("n", "k"), tuple(shape for shape in NK if shape != (128.0, 256.0)))
    lent = lenders_of(knots, np.array([128.0, 256.0]))
    along_k = knots.shape[lent.shapes][:, 0] == 128.0
    assert lent.weights[along_k].sum() == pytest.approx(0.7)
    assert lent.weights[~along_k].sum() == pytest.approx(0.3)


def test_excluded_shapes_do_not_lend() -> None:
    """What held-out evaluation excludes has no weight; when everything is excluded nobody lends."""
    knots = knots_of("gemm", ("n", "k"), NK)
    excluded = knots.shape[:, 0] == 128.0
    assert not np.any(excluded[lenders_of(knots, np.array([128.0, 256.0]), excluded=excluded).shapes])
    assert len(lenders_of(knots, np.array([128.0, 256.0]), excluded=np.ones(len(NK), dtype=bool)).shapes) == 0


def test_nearest_heads_lend_to_an_unseen_count_and_windows_do_not_mix() -> None:
    """Twelve heads borrow most from eight and sixteen of the same head size and window."""
    shapes = tuple((heads, 2.0, 128.0, 128.0, window) for heads in (4.0, 8.0, 16.0, 64.0) for window in (0.0, 128.0))
    knots = knots_of("attention", ("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "window"), shapes)
    lent = lenders_of(knots, np.array([12.0, 2.0, 128.0, 128.0, 0.0]))
    best = knots.shape[lent.shapes[np.argsort(-lent.weights)[:2]]]
    assert set(best[:, 0].tolist()) == {8.0, 16.0}
    assert set(best[:, 4].tolist()) == {0.0}


def test_experts_are_compared_at_equal_pairs_per_expert() -> None:
    """A shape with twice the experts per choice reads its lender's curve at half the tokens."""
    knots = knots_of(
        "moe", ("hidden", "inter", "num_experts", "topk", "tp", "ep"), ((64.0, 64.0, 16.0, 2.0, 1.0, 1.0),)
    )
    lent = lenders_of(knots, np.array([64.0, 64.0, 32.0, 2.0, 1.0, 1.0]))
    at_twice = curve_residual(knots, lent, np.log([16.0]))
    own = lenders_of(knots, np.array([64.0, 64.0, 16.0, 2.0, 1.0, 1.0]))
    assert at_twice == pytest.approx(curve_residual(knots, own, np.log([8.0])))


def test_group_sizes_between_measured_ones_are_linear_in_their_logarithm() -> None:
    """Four ranks between two and eight weigh both ends equally; sixteen goes on beyond eight, not further."""
    knots = knots_of("collective", ("ranks", "nodes"), ((2.0, 1.0), (8.0, 1.0)))
    middle = lenders_of(knots, np.array([4.0, 1.0]))
    assert middle.weights.tolist() == pytest.approx([0.5, 0.5])
    beyond = lenders_of(knots, np.array([16.0, 1.0]))
    assert beyond.weights.tolist() == pytest.approx([-0.5, 1.5])
    far = lenders_of(knots, np.array([1024.0, 1.0]))
    assert far.weights.tolist() == pytest.approx([-1.0, 2.0])
