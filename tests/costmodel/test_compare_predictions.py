"""A cost model against measurements it may not have seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.compare.compare_command import compare
from costmodel.compare.held_out_prices import held_out_costs
from costmodel.compare.predictions import Seen, price_rows, price_side, seen_notes, worst_rows
from costmodel.compare.sides import parse_side
from costmodel.compare.verdict import priced_family_rows
from costmodel.cost_model import Source
from costmodel.fit_file.artefact import save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.op_types import Gemm
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import open_store

DEVICE, CLUSTER = "h100-sxm", "h100-sxm-8"
SIZES = (1, 16, 64, 256, 1024, 4096)


def law_s(m: int, n: int, k: int, clock_mhz: float | None = None) -> float:
    return 3e-6 + 2.0 * m * n * k / (6e14 * (clock_mhz or 1980) / 1980) + 2.0 * n * k / 3e12


def gemm(
    m: int, n: int, k: int, *, factor: float = 1.0, clock_mhz: float | None = None, **fields: Any
) -> dict[str, Any]:
    return {
        "m": m,
        "n": n,
        "k": k,
        "scaling": "none",
        "quantise": False,
        "device": DEVICE,
        "backend": "torch.cublas",
        "dtype": "bf16",
        "clock_mhz": clock_mhz,
        "latency_s": law_s(m, n, k, clock_mhz) * factor,
        "launch": "graph",
        "cache": "cold",
        "status": "ok",
        "origin": "measured",
        **fields,
    }


@pytest.fixture(scope="module")
def cluster() -> ClusterSpec:
    return load_cluster(CLUSTER)


@pytest.fixture(scope="module")
def artefact(cluster: ClusterSpec, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    store = open_store(tmp_path_factory.mktemp("db"), bundled=None)
    rows = [gemm(m, n, k) for n, k in ((1024, 1024), (4096, 4096), (8192, 8192)) for m in SIZES]
    store.append("gemm", rows, "run-1")
    return fit_device(store, DEVICE, cluster)


def side_of(folder: Path, *rows: dict[str, Any]) -> Path:
    open_store(folder, bundled=None).append("gemm", list(rows), "run-2")
    return folder


def test_error_is_the_prediction_over_what_the_other_side_measured(
    artefact: Artefact, cluster: ClusterSpec, tmp_path: Path
) -> None:
    """Known points that now take 10 % longer are priced 10 % too low; new ones say where their price comes from."""
    db = side_of(
        tmp_path / "b",
        *(gemm(m, 4096, 4096, factor=1.1) for m in SIZES),
        gemm(512, 4096, 4096),
        gemm(64, 4096, 6144),
        gemm(16384, 4096, 4096),
    )
    (priced,) = price_side(lambda clock: FittedCosts(artefact, cluster, clock), parse_side(str(db), None))
    known = priced.source == Source.MEASURED
    np.testing.assert_allclose(np.exp(priced.log_error[known]), 1 / 1.1, rtol=1e-9)
    rows = {row["price"]: row for row in price_rows([priced])}
    assert {name: row["points"] for name, row in rows.items()} == {
        "measured": 6,
        "fitted": 1,
        "borrowed": 1,
        "extrapolated": 1,
    }
    assert rows["measured"]["bias_log"] == pytest.approx(-np.log(1.1))


def test_rows_the_fit_was_made_from_are_priced_held_out(
    artefact: Artefact, cluster: ClusterSpec, tmp_path: Path
) -> None:
    """A row of a run of the fit, or of its very latency, is not repeated without error; another run's is."""
    seen = [gemm(m, 4096, 4096) for m in SIZES]
    other = [gemm(m, 1024, 1024, factor=1.1) for m in SIZES]
    db = side_of(tmp_path / "b", *seen, *other)
    (priced,) = price_side(
        lambda clock: FittedCosts(artefact, cluster, clock),
        parse_side(str(db), None),
        held_out_at=held_out_costs(artefact, cluster),
        run_ids=artefact.provenance.run_ids,
    )
    is_own = np.array(priced.keys["n"]) == 4096
    assert (priced.seen[~is_own] == Seen.NO).all()
    assert (priced.source[~is_own] == Source.MEASURED).all()
    held = priced.seen == Seen.HELD_OUT
    assert held.sum() >= len(SIZES) - 2  # ends of a curve have one neighbour
    assert (priced.seen[is_own] != Seen.NO).all()
    assert (priced.source[held] != Source.MEASURED).all()
    assert (np.abs(priced.log_error[held]) > 1e-6).any()
    counted = {row["rows"]: row["points"] for row in price_rows([priced])}
    assert counted == {"not seen": len(SIZES), "seen, priced held out": int(held.sum())}
    (note,) = seen_notes([priced])
    assert note.startswith(f"gemm: {held.sum()} of 12 rows seen, priced held out")
    (summary,) = priced_family_rows([priced])
    assert summary["judged"] == len(SIZES) + held.sum()


def test_rows_at_a_locked_clock_are_priced_at_that_clock(cluster: ClusterSpec, tmp_path: Path) -> None:
    """Each row meets the model at its own clock."""
    db = side_of(tmp_path / "b", gemm(4096, 8192, 8192), gemm(4096, 8192, 8192, clock_mhz=990.0))
    (priced,) = price_side(lambda clock: AnalyticCosts(cluster, clock), parse_side(str(db), None))
    op = Gemm(m=4096, n=8192, k=8192)
    at_own_clock = [float(AnalyticCosts(cluster, clock).predict(op).latency_s) for clock in (None, 990.0)]
    assert sorted(priced.predicted_s.tolist()) == pytest.approx(sorted(at_own_clock))
    assert at_own_clock[1] > 1.5 * at_own_clock[0]


def test_coverage_is_the_share_of_measurements_inside_the_interval(cluster: ClusterSpec, tmp_path: Path) -> None:
    """A measurement a hundred times off lies outside its interval, an exact one inside."""
    op = Gemm(m=64, n=4096, k=4096)
    exact_s = float(AnalyticCosts(cluster).predict(op).latency_s)
    db = side_of(
        tmp_path / "b",
        gemm(64, 4096, 4096, latency_s=exact_s),
        gemm(64, 4096, 4096, latency_s=100 * exact_s, launch="eager"),
    )
    found = price_side(lambda clock: AnalyticCosts(cluster, clock), parse_side(str(db), None))
    (row,) = price_rows(found)
    assert row["coverage_frac"] == 0.5
    (worst, exact) = worst_rows(found, 2)
    assert worst["ratio"] == pytest.approx(0.01)
    assert exact["ratio"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("side", "families", "message"),
    [
        ("device=a100-sxm-80gb", [], "rows are of device a100-sxm-80gb, the model is of h100-sxm"),
        ("clock=1234", [], "no timed row of device h100-sxm"),
        ("origin=measured", ["step"], "family 'step' has no price"),
    ],
)
def test_sides_the_model_cannot_price_are_refused(
    cluster: ClusterSpec, tmp_path: Path, side: str, families: list[str], message: str
) -> None:
    """Rows of another device, no rows, or a family without prices are named."""
    db = side_of(tmp_path / "b", gemm(1, 64, 64))
    with pytest.raises(UserError, match=message):
        price_side(lambda clock: AnalyticCosts(cluster, clock), parse_side(side, db), families)


def test_command_prices_a_side_and_draws_it(artefact: Artefact, tmp_path: Path) -> None:
    """A fitted file or analytic:CLUSTER in place of A prices B; --out draws ratios and errors by source."""
    path, out = tmp_path / "h100.fit.parquet", tmp_path / "page"
    save_artefact(artefact, path)
    db = side_of(tmp_path / "b", *(gemm(m, 4096, 4096, factor=1.2) for m in (1, 16, 100, 1000)))
    result = CliRunner().invoke(compare, [str(path), str(db), "--cluster", CLUSTER, "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {row["price"] for row in document["prices"]} == {"measured", "fitted"}
    assert document["verdict"].startswith("The price of a row of b is off by 20.0% at the median")
    assert document["seen"] == []
    assert sorted(entry.name for entry in out.iterdir()) == ["index.html", "predicted_gemm.png", "source_gemm.png"]
    shown = CliRunner().invoke(compare, [f"analytic:{CLUSTER}", str(db)])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("The price of a row of b is off by")
    row = lines[lines.index("by where the price comes from") + 2]
    assert row.split()[:6] == ["gemm", "bf16", "analytic", "not", "seen", "4"]
