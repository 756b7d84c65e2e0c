"""What a fit says of its own points without them, and the summaries, worst points and files that rest on it."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.compare.compare_command import compare
from costmodel.compare.held_out_prices import HeldOutPoints, held_out_costs, points_of_families
from costmodel.compare.points_csv import write_points
from costmodel.compare.verdict import family_rows, notes, verdict, worst_points
from costmodel.cost_model import Source
from costmodel.fit_file.artefact import save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.op_types import Gemm
from profiles_db.manifest import ShapeManifest
from profiles_db.store import open_store

DEVICE = "rtx-4090"


@pytest.fixture(scope="module")
def points(rtx_4090_fit: Artefact, rtx_4090: ClusterSpec) -> dict[str, HeldOutPoints]:
    return points_of_families(rtx_4090_fit, rtx_4090)


def gemm_row(m: int, latency_s: float) -> dict[str, Any]:
    shape = {"m": m, "n": 4096, "k": 4096, "dtype": "bf16", "scaling": "none", "quantise": False}
    run = {"launch": "graph", "cache": "cold", "status": "ok", "origin": "measured", "backend": "torch.cublas"}
    return {"device": DEVICE, **shape, **run, "latency_s": latency_s}


def test_errors_are_those_the_fit_reported(rtx_4090_fit: Artefact, points: dict[str, HeldOutPoints]) -> None:
    """Median and count per label are those of the report's question "point left out", completed labels included."""
    judged = 0
    for row in rtx_4090_fit.held_out:
        if row.question == "point" and row.regime == "all":
            found = points[row.family]
            own = found.log_error[found.is_known & (found.label_text == row.label)]
            assert len(own) == row.points
            # The file keeps residuals to 2^-12.
            assert np.median(np.abs(own)) == pytest.approx(row.median, abs=3e-4)
            judged += len(own)
    assert judged == sum(int(found.is_known.sum()) for found in points.values())


def test_a_point_left_out_tells_nothing_of_itself(tmp_path: Path) -> None:
    """A point measured 50 % too slow is predicted from its neighbours as if it had been measured right."""
    cluster = load_cluster(f"{DEVICE}-1")
    times = {m: 2e-5 + m * 1e-7 for m in (1, 8, 64, 256, 1024, 2048, 4096, 8192)}
    predicted = []
    for name, factor in (("right", 1.0), ("slow", 1.5)):
        store = open_store(tmp_path / name, bundled=None)
        rows = [gemm_row(m, time_s * (factor if m == 1024 else 1.0)) for m, time_s in times.items()]
        store.append("gemm", rows, "run-1")
        artefact = fit_device(store, DEVICE, cluster)
        knots = artefact.families["gemm"]
        labels = {label: replace(fit, filling=None) for label, fit in knots.labels.items()}
        alone = replace(artefact, families={"gemm": replace(knots, labels=labels)})
        (found,) = points_of_families(alone, cluster).values()
        at = int(np.flatnonzero(knots.x[found.row] == 1024)[0])
        predicted.append(found.predicted_s[at])
        assert found.measured_s[at] == pytest.approx(times[1024] * factor)
    # The trend is that of all points, and moves a little.
    assert predicted[1] == pytest.approx(predicted[0], rel=0.06)


def test_prices_of_the_halves_are_the_held_out_ones(
    rtx_4090_fit: Artefact, rtx_4090: ClusterSpec, points: dict[str, HeldOutPoints]
) -> None:
    """Each point is priced without itself by one half; a point at an end by neither, and stays measured."""
    found = points["gemm"]
    knots = found.knots
    shape = int(found.shape[0])
    own = np.flatnonzero((found.shape == shape) & (knots.x[found.row] <= 16))
    n, k = (int(size) for size in knots.shape[shape])
    op = Gemm(m=knots.x[found.row[own]].astype(np.int64), n=n, k=k, dtype="bf16")
    assert (FittedCosts(rtx_4090_fit, rtx_4090).predict(op).source == Source.MEASURED).all()
    halves = [half.predict(op) for half in held_out_costs(rtx_4090_fit, rtx_4090)(None)]
    seen = np.array([half.source == Source.MEASURED for half in halves])
    assert (seen.sum(axis=0) == np.where(found.is_known[own], 1, 2)).all()
    price_s = np.where(seen[0], halves[1].latency_s, halves[0].latency_s)
    known = found.is_known[own]
    # The file keeps residuals to 2^-12.
    np.testing.assert_allclose(price_s[known], found.predicted_s[own][known], rtol=3e-4)


def test_summary_has_a_row_per_family_and_one_of_all(rtx_4090_fit: Artefact, points: dict[str, HeldOutPoints]) -> None:
    """The row of all counts what the others count; the verdict quotes it, in per cent of the measured time."""
    rows = family_rows(rtx_4090_fit, points)
    *families, whole = rows
    assert [row["family"] for row in families] == list(points)
    for count in ("points", "judged"):
        assert whole[count] == sum(row[count] for row in families)
    assert f"off by {np.expm1(whole['median_log']):.1%} at the median" in verdict(rows)
    silent = {family: int((~found.is_known).sum()) for family, found in points.items()}
    assert [note.split(" points")[0] for note in notes(points)] == [f"{name}: {n}" for name, n in silent.items() if n]


def test_a_fit_that_nothing_judges_says_so(rtx_4090_fit: Artefact, points: dict[str, HeldOutPoints]) -> None:
    """Points without neighbours give no error, no division by nothing, and a verdict that says so."""
    gemm = points["gemm"]
    rows = family_rows(rtx_4090_fit, {"gemm": gemm.take(~gemm.is_known)})
    assert rows[0]["judged"] == 0
    assert rows[0]["median_log"] is None
    assert verdict(rows).startswith("No point has measured neighbours")


def test_worst_points_are_the_worst(points: dict[str, HeldOutPoints]) -> None:
    """No point of a family is farther off than its first row, and its key names the point."""
    rows = worst_points(points, 2)
    assert len(rows) == 2 * len(points)
    for family, found in points.items():
        first, second = (row for row in rows if row["family"] == family)
        worst = np.nanmax(np.abs(found.log_error))
        assert abs(np.log(first["ratio"])) == pytest.approx(worst)
        assert abs(np.log(second["ratio"])) <= worst
        assert first["ratio"] == pytest.approx(first["predicted_s"] / first["measured_s"])
        assert ": " in first["point"]


def test_csv_holds_every_point(points: dict[str, HeldOutPoints], tmp_path: Path) -> None:
    """A file per family, a line per measured point; no price where nothing can be said without the point."""
    files = write_points(tmp_path, points)
    assert [path.name for path in files] == [f"points_{family}.csv" for family in points]
    for path, found in zip(files, points.values(), strict=True):
        with path.open() as stream:
            lines = list(csv.DictReader(stream))
        assert len(lines) == len(found.row)
        assert sum(line["held_out_s"] == "" for line in lines) == int((~found.is_known).sum())
        known = next(line for line in lines if line["held_out_s"])
        ratio = float(known["held_out_s"]) / float(known["measured_s"]) - 1.0
        assert float(known["error_frac"]) == pytest.approx(ratio, abs=1e-3)


def test_a_family_that_was_not_fitted_is_refused(rtx_4090_fit: Artefact, rtx_4090: ClusterSpec) -> None:
    """The error names the family and those there are."""
    with pytest.raises(UserError, match="family moe was not fitted") as caught:
        points_of_families(rtx_4090_fit, rtx_4090, ["moe"])
    assert "gemm" in str(caught.value.hint)


def test_where_keeps_the_shapes_asked_for(rtx_4090_fit: Artefact, rtx_4090: ClusterSpec) -> None:
    """Features and parts of labels choose; families without the column are left out, and values nobody has refused."""
    found = points_of_families(rtx_4090_fit, rtx_4090, where=["n=6144", "branch=aligned"])
    assert list(found) == ["gemm"]
    knots, shapes = found["gemm"].knots, np.unique(found["gemm"].shape)
    assert {(knots.shape[shape][0], knots.label[shape].parts[1]) for shape in shapes} == {(6144.0, "aligned")}
    with pytest.raises(UserError, match="no measured point has n=1") as caught:
        points_of_families(rtx_4090_fit, rtx_4090, where=["n=1"])
    assert "num_heads" in str(caught.value.hint)
    with pytest.raises(UserError, match="--where n: must be column=value"):
        points_of_families(rtx_4090_fit, rtx_4090, where=["n"])


def test_coverage_of_chosen_shapes_is_not_that_of_all(
    rtx_4090_fit: Artefact, rtx_4090: ClusterSpec, tmp_path: Path
) -> None:
    """The command shows verdict, families and worst points of the shapes alone, and no table of whole labels."""
    path = tmp_path / "a.parquet"
    save_artefact(rtx_4090_fit, path)
    result = CliRunner().invoke(compare, [str(path), "--where", "n=6144"])
    assert result.exit_code == 0, result.output
    assert "by label and held-out question" not in result.stdout
    assert result.stdout.startswith("Predicted without itself")
    assert result.stdout.splitlines()[3].split()[-1] == "-"
    refused = CliRunner().invoke(compare, ["h100-sxm", "h200-sxm", "--where", "n=6144"])
    assert "--where cannot act" in str(refused.exception)


def test_a_step_is_as_wrong_as_its_shapes(rtx_4090_fit: Artefact, tmp_path: Path) -> None:
    """`--manifest` weighs intervals by the shapes' shares; a manifest without shares is refused."""
    fit, manifest = tmp_path / "a.parquet", tmp_path / "shapes.json"
    save_artefact(rtx_4090_fit, fit)
    shape = {"m": [8], "n": [4096], "k": [4096], "scaling": ["none"], "quantise": [False], "dtype": ["bf16"]}
    table = pa.table(shape)
    shares = pa.table({**shape, "prefill_frac": [1.0], "decode_frac": [1.0]})
    ShapeManifest(tables={"gemm": table}, shares={"gemm": shares}).save(manifest)
    result = CliRunner().invoke(compare, [str(fit), "--manifest", str(manifest), "--json"])
    assert result.exit_code == 0, result.output
    price = FittedCosts(rtx_4090_fit, load_cluster(rtx_4090_fit.provenance.cluster)).predict(Gemm(m=8, n=4096, k=4096))
    half = float(np.log(price.high_s / price.low_s)) / 2.0
    for row in json.loads(result.stdout)["steps"]:
        assert row["interval_log"] == pytest.approx(half)
        assert row["measured_frac"] == row["share_frac"] == 1.0
    ShapeManifest(tables={"gemm": table}).save(manifest)
    refused = CliRunner().invoke(compare, [str(fit), "--manifest", str(manifest)])
    assert "says no shares" in str(refused.exception)
