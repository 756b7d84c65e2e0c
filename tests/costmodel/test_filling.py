"""Labels with few points: what fills them in, what is said about it, and what it is worth on points nobody measured."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.compare.fit_page import fit_sections
from costmodel.compare.held_out_points import individual_errors
from costmodel.compare.held_out_prices import points_of_families
from costmodel.cost_model import Source
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.filling import MOST_POINTS
from costmodel.fitting.fit_device import fit_device
from costmodel.fitting.prior import Prior
from costmodel.fitting.report import fit_text
from costmodel.ops.label import Label
from costmodel.ops.op_types import Gemm
from profiles_db.store import open_store

from .conftest import DEVICE, NK, M, common, gemm_rows

ALIGNED_M = tuple(m for m in M if m <= 16 or m % 8 == 0)
Time = Callable[[int, int, int], float]


def bumpy_s(m: int, n: int, k: int) -> float:
    """Time of a machine whose kernels alternate between good and bad tiles over m, on every shape alike."""
    smooth = 4e-6 + 2.0 * m * n * k / 4e14 + 2.0 * n * k / 2.5e12
    return smooth * (1.3 if int(np.log2(m)) % 2 else 1.0)


def relative_s(m: int, n: int, k: int) -> float:
    """Time of its relative: a fifth faster where it computes, less where it launches."""
    return bumpy_s(m, n, k) * (0.8 + 0.15 / (1.0 + m * n * k / 1e8))


def rows_of(time_s: Time, points: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """GEMM rows of an imagined machine."""
    return [common(time_s(m, n, k), m=m, n=n, k=k, scaling="none", quantise=False) for m, n, k in points]


def fitted(
    folder: Path, rows: list[dict[str, Any]], cluster: ClusterSpec, prior: Prior | None = None, run: str = "run-1"
) -> Artefact:
    """Fit rows kept in a database of their own."""
    store = open_store(folder, bundled=None)
    store.append("gemm", rows, run)
    return fit_device(store, DEVICE, cluster, prior=prior)


ALL = [(m, n, k) for n, k in NK for m in ALIGNED_M]


def median_error(
    artefact: Artefact, cluster: ClusterSpec, time_s: Time, points: Sequence[tuple[int, int, int]]
) -> float:
    """Median |ln(predicted / true)|."""
    costs = FittedCosts(artefact, cluster)
    errors = [np.log(costs.predict(Gemm(m=m, n=n, k=k)).latency_s / time_s(m, n, k)) for m, n, k in points]
    return float(np.median(np.abs(errors)))


@pytest.fixture
def relative(tmp_path: Path, cluster: ClusterSpec) -> Prior:
    """Fit the relative, measured at every size."""
    return Prior(fitted(tmp_path / "relative", rows_of(relative_s, ALL), cluster, run="run-0"), cluster)


def test_a_prior_turns_a_tenth_of_the_points_into_the_error_of_all(
    tmp_path: Path, cluster: ClusterSpec, relative: Prior
) -> None:
    """Eight points and a relative's curves price the other 58 within 2 %; alone they are off by far more."""
    order = np.random.default_rng(0).permutation(len(ALL))
    corners = [ALL.index((m, n, k)) for m in (1, 1024) for n, k in (NK[0], NK[-1])]
    few = list(dict.fromkeys([*corners, *order.tolist()]))[:8]
    rest = [ALL[i] for i in order if i not in few]
    rows = rows_of(bumpy_s, [ALL[i] for i in few])
    with_prior = fitted(tmp_path / "with", rows, cluster, relative)
    assert median_error(with_prior, cluster, bumpy_s, rest) < 0.02
    assert median_error(fitted(tmp_path / "alone", rows, cluster), cluster, bumpy_s, rest) > 0.06
    filling = with_prior.families["gemm"].labels[Label(("bf16", "aligned"))].filling
    assert filling is not None
    assert filling.trust > 0.5
    assert f"filled in gemm bf16|aligned: from all its shapes and {filling.trust:.0%} of the fit" in fit_text(
        with_prior
    )


def test_shapes_together_beat_curves_of_three_points(tmp_path: Path, cluster: ClusterSpec) -> None:
    """Without a prior, sizes measured on other shapes fill the gaps of each curve."""
    draw = np.random.default_rng(1)
    kept = [point for point in ALL if draw.uniform() < 0.45]
    rest = [point for point in ALL if point not in kept]
    artefact = fitted(tmp_path / "db", rows_of(bumpy_s, kept), cluster)
    knots = artefact.families["gemm"]
    assert knots.labels[Label(("bf16", "aligned"))].filling is not None
    filled_error = median_error(artefact, cluster, bumpy_s, rest)
    measured = ~np.isnan(knots.latency_s)
    counts = np.add.reduceat(measured.astype(np.int64), knots.start[:-1])
    curves = replace(
        knots,
        start=np.concatenate([[0], np.cumsum(counts)]),
        x=knots.x[measured],
        y=knots.y[measured],
        latency_s=knots.latency_s[measured],
        residual=knots.residual[measured],
    )
    alone = median_error(replace(artefact, families={"gemm": curves}), cluster, bumpy_s, rest)
    assert filled_error < 0.7 * alone


def test_a_label_of_many_points_keeps_its_own_curves(tmp_path: Path, cluster: ClusterSpec) -> None:
    """A process costs the cube of its points: a full table is fitted curve by curve, and nothing is added to it."""
    points = [(m, 256 * n, 4096) for n in range(1, 190) for m in range(8, 136, 8)]
    assert len(points) > MOST_POINTS
    knots = fitted(tmp_path / "db", rows_of(bumpy_s, points), cluster).families["gemm"]
    assert knots.labels[Label(("bf16", "aligned"))].filling is None
    assert not np.isnan(knots.latency_s).any()


def test_sources_say_what_was_measured(tmp_path: Path, cluster: ClusterSpec, relative: Prior) -> None:
    """Measured points are measured, points between them fitted, shapes that only the prior knows borrowed."""
    n, k = NK[0]
    rows = rows_of(bumpy_s, [(m, n, k) for m in (1, 4, 16, 64, 256, 1024)])
    artefact = fitted(tmp_path / "db", rows, cluster, relative)
    costs = FittedCosts(artefact, cluster)
    assert costs.predict(Gemm(m=16, n=n, k=k)).source == Source.MEASURED
    assert costs.predict(Gemm(m=32, n=n, k=k)).source == Source.FITTED
    assert costs.predict(Gemm(m=16, n=NK[-1][0], k=NK[-1][1])).source == Source.BORROWED


def test_a_prior_that_saw_the_rows_is_not_used_and_said(tmp_path: Path, cluster: ClusterSpec, relative: Prior) -> None:
    """Its errors on them would be those of remembering."""
    artefact = fitted(tmp_path / "db", rows_of(relative_s, ALL[::7]), cluster, relative, run="run-0")
    (report,) = [report for report in artefact.reports if report.family == "gemm"]
    assert report.no_prior == "it was fitted to run run-0 itself"
    assert "prior not used for gemm: it was fitted to run run-0 itself" in fit_text(artefact)
    assert all(not fit.filling or not fit.filling.trust for fit in artefact.families["gemm"].labels.values())


def test_tables_of_the_same_device_are_not_judged_by_a_fit_of_such_tables(tmp_path: Path, cluster: ClusterSpec) -> None:
    """Imported rows may be among those the prior was fitted to, whatever their run; measured rows cannot be."""

    def imported(time_s: Time) -> list[dict[str, Any]]:
        return [row | {"origin": "imported:tables-1"} for row in rows_of(time_s, ALL[::5])]

    prior = Prior(fitted(tmp_path / "old", imported(relative_s), cluster, run="run-0"), cluster)
    artefact = fitted(tmp_path / "new", imported(bumpy_s), cluster, prior)
    (report,) = [report for report in artefact.reports if report.family == "gemm"]
    assert report.no_prior == "it was fitted to imported:tables-1 tables of the same device"
    measured = fitted(tmp_path / "measured", rows_of(bumpy_s, ALL[::5]), cluster, prior)
    assert not any(report.no_prior for report in measured.reports)


def test_held_out_errors_of_filled_labels_survive_the_file(
    tmp_path: Path, cluster: ClusterSpec, relative: Prior
) -> None:
    """A page drawn from the file shows the errors the fit reported, not those of estimates that saw the points."""
    artefact = fitted(tmp_path / "db", rows_of(bumpy_s, ALL[::5]), cluster, relative)
    path = tmp_path / "a.fit.parquet"
    save_artefact(artefact, path)
    loaded = load_artefact(path)
    filling = artefact.families["gemm"].labels[Label(("bf16", "aligned"))].filling
    assert filling is not None
    again = individual_errors(loaded, cluster, ["gemm"])["gemm"]
    for question, errors in filling.errors.items():
        own = again[question].label == "bf16|aligned"
        assert again[question].error[own] == pytest.approx(errors.error, abs=0.001)
    price = FittedCosts(artefact, cluster).predict(Gemm(m=32, n=2048, k=4096))
    assert FittedCosts(loaded, cluster).predict(Gemm(m=32, n=2048, k=4096)) == price


def test_a_prior_is_the_devices_own_bundled_fit_a_named_one_a_file_or_none(tmp_path: Path) -> None:
    """``auto`` never fails; a name that is neither a device nor a file is refused."""
    own = Prior.choose("auto", "h100-sxm")
    assert own is not None
    assert own.name == "h100-sxm"
    assert Prior.choose("auto", "v100-sxm2") is None
    assert Prior.choose("none", "h100-sxm") is None
    named = Prior.choose("h200-sxm", "h100-sxm")
    assert named is not None
    assert named.name == "h200-sxm"
    with pytest.raises(UserError, match="no such file") as refused:
        Prior.choose(str(tmp_path / "missing.parquet"), "h100-sxm")
    assert "h200-sxm" in str(refused.value.hint)


def test_gemm_rows_of_the_shared_machine_still_fit_exactly(tmp_path: Path, cluster: ClusterSpec) -> None:
    """Filling never moves a measured point."""
    rows = gemm_rows(cluster)[::3]
    costs = FittedCosts(fitted(tmp_path / "db", rows, cluster), cluster)
    for row in rows:
        assert costs.predict(Gemm(m=row["m"], n=row["n"], k=row["k"])).latency_s == row["latency_s"]


def test_a_page_draws_measurements_and_no_estimates(tmp_path: Path, cluster: ClusterSpec, relative: Prior) -> None:
    """The heat map has one cell per octave measured and none for estimates; shapes of the prior alone have no curve."""
    pytest.importorskip("matplotlib")
    points = [(m, n, k) for m in (1, 4, 16, 256) for n, k in NK[:2]]
    artefact = fitted(tmp_path / "db", rows_of(bumpy_s, points), cluster, relative)
    sections = fit_sections(artefact, cluster, points_of_families(artefact, cluster))
    figures = [figure for section in sections for figure in section.figures]
    (heat_map,) = [figure.figure for figure in figures if figure.name == "utilisation_bf16"]
    drawn = heat_map.axes[0].collections[0].get_array()
    assert np.ma.count(np.ma.masked_invalid(drawn)) == len({(m, n * k) for m, n, k in points})
    (curves,) = [figure.figure for figure in figures if figure.name == "curves_gemm_bf16_aligned"]
    names = {text.get_text() for text in curves.axes[0].get_legend().get_texts()}
    assert {f"n {n:,}, k {k:,}" for n, k in NK[:2]} == {name for name in names if name.startswith("n ")}
