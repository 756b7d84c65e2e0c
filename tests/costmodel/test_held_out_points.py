"""A fitted model against its measurements: report, curves behind the plots, transfer across clocks, page."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.compare.compare_command import compare
from costmodel.compare.curves_to_draw import curve_series, measured_rows_of, op_of
from costmodel.compare.held_out_points import clock_rows, clock_transfers, held_out_rows, individual_errors, overall
from costmodel.compare.held_out_prices import held_out_points
from costmodel.fit_file.artefact import save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted.knots import FamilyKnots, with_labels
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.roofline import peak_flop_per_s
from profiles_db.store import open_store

DEVICE = "a100-sxm-80gb"
CLOCKS_MHZ = (1410.0, 1005.0)


def row(**fields: Any) -> dict[str, Any]:
    return {
        "device": DEVICE,
        "backend": "torch.cublas",
        "dtype": "bf16",
        "launch": "graph",
        "cache": "cold",
        "status": "ok",
        "origin": "measured",
        **fields,
    }


def gemm_rows(cluster: ClusterSpec) -> Iterator[dict[str, Any]]:
    """Follow a law: launch floor plus the larger of arithmetic (follows the clock) and memory (does not)."""
    device = cluster.device
    for clock in CLOCKS_MHZ:
        for n, k in ((1024, 1024), (4096, 4096), (8192, 4096), (8192, 8192)):
            for m in (1, 16, 64, 256, 1024, 4096, 8192, 16384):
                arithmetic_s = 2.0 * m * n * k / (0.8 * peak_flop_per_s(device, "bf16", clock))
                memory_s = 2.0 * (m * k + n * k + m * n) / (0.8 * device.memory_bytes_per_s)
                latency_s = 4e-6 + max(arithmetic_s, memory_s)
                shape = {"m": m, "n": n, "k": k, "scaling": "none", "quantise": False}
                yield row(**shape, clock_mhz=clock, sm_clock_mhz=clock, latency_s=latency_s)


def attention_rows() -> Iterator[dict[str, Any]]:
    head = {"variant": "gqa", "num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "v_head_dim": 128, "window": 0}
    nothing = dict.fromkeys(("num_prefill", "prefill_q", "prefill_kv", "num_decode", "decode_kv", "decode_kv_max"), 0)
    for sequences in (1, 2, 4, 8, 16):
        for length in (64, 256, 1024, 4096):
            sizes = {"num_decode": sequences, "decode_kv": length, "decode_kv_max": length}
            latency_s = 8e-6 + sequences * length * 4096 / 1.5e12
            common = {"kv_dtype": "bf16", "decode_q": 1, "latency_s": latency_s}
            yield row(phase="decode", **head, **{**nothing, **sizes}, **common)


def collective_rows() -> Iterator[dict[str, Any]]:
    for ranks in (2, 4, 8):
        for power in range(8, 28, 2):
            message = 2**power
            latency_s = 1e-5 + message * 2 * (ranks - 1) / ranks / 2.0e11
            group = {"kind": "all_reduce", "ranks": ranks, "nodes": 1, "level": "nvlink"}
            yield row(**group, message_bytes=message, latency_s=latency_s, backend="nccl", dtype="fp16")


@pytest.fixture(scope="module")
def cluster() -> ClusterSpec:
    return load_cluster("a100-sxm-80gb-8")


@pytest.fixture(scope="module")
def artefact(cluster: ClusterSpec, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    store = open_store(tmp_path_factory.mktemp("db"), bundled=None)
    store.append("gemm", list(gemm_rows(cluster)), "run-1")
    store.append("attention", list(attention_rows()), "run-1")
    store.append("collective", list(collective_rows()), "run-1")
    return fit_device(store, DEVICE, cluster)


def knots_of(artefact: Artefact, family: str) -> FamilyKnots:
    return artefact.families[family]


@pytest.mark.parametrize("family", ["gemm", "attention", "collective"])
def test_op_behind_a_knot_is_priced_at_what_was_measured(artefact: Artefact, cluster: ClusterSpec, family: str) -> None:
    """The op rebuilt from a knot asks the model for exactly the point measured, so its price is the measured one."""
    knots = knots_of(artefact, family)
    for shape, label in enumerate(knots.label):
        own = knots.rows(shape)
        costs = FittedCosts(artefact, cluster, label.clock_mhz)
        found = costs.predict(op_of(knots, shape, knots.x[own], knots.y[own], cluster))
        np.testing.assert_allclose(found.latency_s, knots.latency_s[own], rtol=1e-12)


@pytest.mark.parametrize("family", ["gemm", "attention", "collective"])
def test_individual_errors_add_up_to_the_report(artefact: Artefact, cluster: ClusterSpec, family: str) -> None:
    """The errors behind the histograms are the ones whose median and count the fit reported."""
    errors = individual_errors(artefact, cluster, [family])[family]
    for reported in artefact.held_out:
        if reported.family == family and reported.regime == "all":
            found = errors[reported.question]
            own = np.abs(found.error[found.label == reported.label])
            assert len(own) == reported.points
            assert np.median(own) == pytest.approx(reported.median, rel=1e-9, abs=1e-12)


def test_rows_of_knots_are_the_measured_points(artefact: Artefact, cluster: ClusterSpec) -> None:
    """Nothing measured is lost and nothing filled in comes back as measured."""
    rows = measured_rows_of(knots_of(artefact, "attention"), cluster)
    assert len(rows.latency_s) == 20
    assert np.isfinite(rows.latency_s).all()


def test_curves_pass_through_their_points_and_lie_in_their_band(artefact: Artefact, cluster: ClusterSpec) -> None:
    """A drawn curve meets the measured points, and its interval is around it."""
    knots = knots_of(artefact, "gemm")
    for label in knots.labels:
        found = held_out_points(knots, cluster)
        costs = FittedCosts(artefact, cluster, label.clock_mhz)
        series = curve_series(knots, label, costs, found.knot_price_s, found.shapes_of(label))
        assert len(series) == 4
        for one in series:
            assert one.band is not None
            assert (one.band.low <= one.band.y).all()
            assert (one.band.y <= one.band.high).all()
            on_curve = np.interp(np.log(one.x), np.log(one.band.x), np.log(one.band.y))
            np.testing.assert_allclose(np.exp(on_curve), one.y, rtol=1e-9)
            assert one.held_out is not None
            assert not np.isclose(one.held_out, one.y, rtol=1e-3).all()


def test_surfaces_are_cut_along_the_number_of_sequences(artefact: Artefact, cluster: ClusterSpec) -> None:
    """Decode attention is drawn over sequences, one curve per context length."""
    knots = knots_of(artefact, "attention")
    (label,) = knots.labels
    found = held_out_points(knots, cluster)
    series = curve_series(knots, label, FittedCosts(artefact, cluster), found.knot_price_s, found.shapes_of(label))
    assert [one.label for one in series] == [f"{n} tokens of context" for n in ("64", "256", "1,024", "4,096")]
    assert all(one.x.tolist() == [1, 2, 4, 8, 16] for one in series)


def test_labels_can_be_taken_apart(artefact: Artefact) -> None:
    """One clock's knots alone keep their points, and no other's."""
    knots = knots_of(artefact, "gemm")
    (top,) = [label for label in knots.labels if label.clock_mhz == max(CLOCKS_MHZ)]
    alone = with_labels(knots, [top])
    assert set(alone.label) == {top}
    assert alone.num_shapes == 4
    assert len(alone.x) == 32
    for shape in range(alone.num_shapes):
        twin = int(np.flatnonzero((knots.shape == alone.shape[shape]).all(axis=1) & (knots.label_text == top.text))[0])
        np.testing.assert_array_equal(alone.latency_s[alone.rows(shape)], knots.latency_s[knots.rows(twin)])


def test_lower_clock_is_priced_from_the_highest_alone(artefact: Artefact, cluster: ClusterSpec) -> None:
    """Compute-bound calls slow down with the clock, memory-bound ones do not; the prediction knows which is which."""
    (transfer,) = clock_transfers(artefact, cluster)
    assert transfer.reference_mhz == 1410
    assert set(transfer.clock_mhz.tolist()) == {1005}
    assert len(set(transfer.name)) == 32
    assert "n 8,192, k 4,096: 256" in transfer.name
    slowdown = transfer.measured_s / transfer.reference_s
    assert slowdown.max() > 1.35
    assert slowdown.min() == pytest.approx(1.0)
    assert np.median(np.abs(transfer.log_error)) < 0.03
    (summary,) = clock_rows([transfer])
    assert summary["points"] == 32
    assert summary["median_log"] == pytest.approx(np.median(np.abs(transfer.log_error)))


def test_report_keeps_every_region_and_the_overall_rows(artefact: Artefact) -> None:
    """The table has all held-out rows in order of family, label and question; the overall view drops the regions."""
    rows = held_out_rows(artefact)
    assert len(rows) == len(artefact.held_out)
    shown = overall(rows)
    assert all("region" not in line for line in shown)
    assert [line["family"] for line in shown] == sorted(
        (line["family"] for line in shown), key=["gemm", "attention", "collective"].index
    )


def test_command_prints_json_and_draws_every_kind_of_figure(artefact: Artefact, tmp_path: Path) -> None:
    """--json holds held-out errors and clocks; the page has curves, heat map, bandwidth, histogram and clocks."""
    path, out = tmp_path / "a100.fit.parquet", tmp_path / "page"
    save_artefact(artefact, path)
    result = CliRunner().invoke(compare, [str(path), "--cluster", "a100-sxm-80gb-8", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["provenance"]["device"] == DEVICE
    assert len(document["held_out"]) == len(artefact.held_out)
    assert document["verdict"].startswith("Predicted without itself, a measured point is off by")
    assert [row["family"] for row in document["families"]] == ["gemm", "attention", "collective", "all"]
    assert len(document["worst"]) == 9
    assert document["clocks"][0]["to_mhz"] == 1005
    kinds = {written.name.split("_")[0] for written in out.iterdir()}
    assert kinds == {"index.html", "curves", "parity", "utilisation", "bandwidth", "error", "clocks", "points"}
    page = (out / "index.html").read_text()
    assert page.count("<svg") == len(list(out.glob("*.png")))
    assert "nan" not in page


def test_tables_need_no_plotting_library(artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib the tables still come; asking for plots says what to install, and writes nothing."""
    path, out = tmp_path / "a100.fit.parquet", tmp_path / "page"
    save_artefact(artefact, path)
    for name in [
        name for name in sys.modules if name.split(".")[0] == "matplotlib" or name == "costmodel.compare.plots"
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert CliRunner().invoke(compare, [str(path)]).exit_code == 0
    refused = CliRunner().invoke(compare, [str(path), "--out", str(out)])
    assert isinstance(refused.exception, UserError)
    assert "apex-planner[report]" in refused.exception.hint
    assert not out.exists()


def test_command_prints_percentages(artefact: Artefact, tmp_path: Path) -> None:
    """A person reads errors in per cent, one line per label and question."""
    path = tmp_path / "a100.fit.parquet"
    save_artefact(artefact, path)
    result = CliRunner().invoke(compare, [str(path)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Predicted without itself")
    assert " ".join(lines[2].split()) == "family points judged median p90 within 10 percent bias coverage"
    long_table = lines[lines.index("by label and held-out question") + 1]
    assert long_table.split() == ["family", "label", "held", "out", "points", "median", "p90", "bias", "coverage"]
    assert "lower clocks priced from the highest alone" in lines
    assert "1005 MHz" in result.stdout
