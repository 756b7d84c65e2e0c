"""Monotone repair of measured cells."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from costmodel.fitted.measured_rows import MeasuredRows
from costmodel.fitting.repair import fastest_no_smaller, impossible, repaired, suspicious


def rows_of(latency_s: np.ndarray, x: np.ndarray, y: np.ndarray | None = None) -> MeasuredRows:
    count = len(x)
    return MeasuredRows(
        family="attention",
        features=("num_heads",),
        label=np.full(count, "a"),
        shape=np.ones((count, 1)),
        x=x,
        y=np.ones(count) if y is None else y,
        latency_s=latency_s,
        flop_s=np.ones(count),
        bytes_s=np.ones(count),
        efficiency={"a": (1.0, 1.0)},
        is_estimate=np.zeros(count, dtype=bool),
    )


@given(latency_s=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_repair_only_lowers_and_never_falls_with_size(latency_s: list[float], seed: int) -> None:
    """In whatever order the rows come: no cell rises, and time rises with x."""
    x = np.random.default_rng(seed).permutation(len(latency_s)).astype(np.float64) + 1
    rows = rows_of(np.array(latency_s), x)
    found = repaired(rows).latency_s
    assert np.all(found <= rows.latency_s)
    assert np.all(np.diff(found[np.argsort(x)]) >= 0)


@given(latency_s=st.lists(st.floats(1e-6, 1.0), min_size=12, max_size=12))
def test_repair_over_two_sizes_leaves_no_larger_call_faster(latency_s: list[float]) -> None:
    """Every pair of cells ordered in both sizes is ordered in time."""
    x, y = (part.ravel().astype(np.float64) for part in np.meshgrid([1, 2, 4], [1, 3, 9, 27], indexing="ij"))
    found = fastest_no_smaller(rows_of(np.array(latency_s), x, y))
    larger = (x[None, :] >= x[:, None]) & (y[None, :] >= y[:, None])
    assert np.all(found[:, None] <= np.where(larger, found[None, :], np.inf))


def test_only_cells_a_tenth_slower_than_a_larger_call_are_suspicious() -> None:
    """5 % is noise, 50 % is not."""
    rows = rows_of(np.array([1.05, 1.5, 1.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert suspicious(rows).tolist() == [False, True, False, False]


def test_a_monotone_table_is_left_alone() -> None:
    """Repairing what needs none changes nothing."""
    rows = rows_of(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert repaired(rows).latency_s.tolist() == [1.0, 2.0, 3.0]


def test_a_cell_that_beats_the_roofline_and_both_its_neighbours_is_impossible() -> None:
    """Alone below a bound of 1 s it is, the last one too; where the larger call follows, or the bound is kept, not."""
    sizes = np.array([1.0, 2.0, 3.0, 4.0])
    assert impossible(rows_of(np.array([1.2, 0.4, 1.3, 1.4]), sizes)).tolist() == [False, True, False, False]
    assert not impossible(rows_of(np.array([1.2, 0.4, 0.42, 1.4]), sizes)).any()
    assert not impossible(rows_of(np.array([2.2, 1.1, 2.3, 2.4]), sizes)).any()
    assert impossible(rows_of(np.array([0.4, 1.2, 1.3, 0.4]), sizes)).tolist() == [False, False, False, True]


def test_an_impossible_cell_must_stand_out_along_both_sizes() -> None:
    """In a grid, calls that are smaller or larger in either size are its neighbours."""
    x, y = (part.ravel().astype(np.float64) for part in np.meshgrid([1, 2, 4], [1, 3, 9], indexing="ij"))
    latency_s = np.full(9, 1.5)
    latency_s[4] = 0.5
    assert np.flatnonzero(impossible(rows_of(latency_s, x, y))).tolist() == [4]
    latency_s[5] = 0.5
    assert not impossible(rows_of(latency_s, x, y)).any()
