"""Fitting: what is used, what is left out, and what is said about it."""

from pathlib import Path

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.cost_model import Source
from costmodel.families.family import FEWEST_POINTS
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.fitting.measured_device import choose_cluster, choose_device
from costmodel.ops.op_types import Gemm
from profiles_db.store import Store, open_store

from .conftest import DEVICE, common, gemm_rows, true_gemm_s


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    """Open an empty database."""
    return open_store(tmp_path / "db", bundled=None)


def test_too_few_points_say_how_many_are_needed_and_fall_back_by_name(
    empty: Store, store: Store, cluster: ClusterSpec
) -> None:
    """A family below the limit is reported with both numbers; its prices are analytic with the wide interval."""
    rows = [row for row in gemm_rows(cluster) if row["m"] <= 4 and row["n"] == 1024 and row["k"] == 1024]
    empty.append("gemm", rows, "run-1")
    empty.append("moe", store.read("moe").drop_columns(["run_id"]), "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    (report,) = [report for report in artefact.reports if report.family == "gemm"]
    assert report.why_not == f"{len(rows)} distinct points of one kind, {FEWEST_POINTS} needed"
    found = FittedCosts(artefact, cluster).predict(Gemm(m=4, n=1024, k=1024))
    assert found.source == Source.ANALYTIC
    assert found.high_s / found.latency_s > 1.5


def test_a_database_without_enough_of_anything_is_refused(empty: Store, cluster: ClusterSpec) -> None:
    """The message counts the rows, the hint says how to get more."""
    empty.append("gemm", gemm_rows(cluster)[:2], "run-1")
    with pytest.raises(UserError, match="2 rows of device h100-sxm are too few") as caught:
        fit_device(empty, DEVICE, cluster)
    assert "apex profile" in caught.value.hint


def test_rows_that_failed_are_counted_and_left_out(empty: Store, cluster: ClusterSpec) -> None:
    """A row that ran out of memory is in the report, not in the fit."""
    rows = gemm_rows(cluster)
    rows.append(
        common(0.0, m=9999, n=1024, k=1024, scaling="none", quantise=False) | {"status": "oom", "latency_s": None}
    )
    empty.append("gemm", rows, "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    assert artefact.reports[0].dropped == {"status oom": 1}
    assert artefact.reports[0].used == len(rows) - 1


def test_rows_measured_here_win_over_imported_ones_and_the_others_are_counted(
    empty: Store, cluster: ClusterSpec
) -> None:
    """An imported table of twice the time does not move the fit of measured rows."""
    measured = gemm_rows(cluster)
    imported = [
        row | {"latency_s": 2 * row["latency_s"], "origin": "imported:other", "framework": "vllm-0.24.0"}
        for row in measured
    ]
    empty.append("gemm", measured, "run-1")
    empty.append("gemm", imported, "run-2")
    artefact = fit_device(empty, DEVICE, cluster)
    assert artefact.reports[0].dropped == {"another framework, version or origin was preferred": len(imported)}
    price = FittedCosts(artefact, cluster).predict(Gemm(m=16, n=1024, k=1024)).latency_s
    assert price == true_gemm_s(cluster, 16, 1024, 1024)


@pytest.mark.parametrize(
    ("wanted", "factor"), [("vllm-0.11.2", 1.0), ("vllm-0.30.0", 2.0), (None, 2.0), ("sglang", 3.0)]
)
def test_the_nearest_version_of_the_wanted_framework_is_fitted(
    empty: Store, cluster: ClusterSpec, wanted: str | None, factor: float
) -> None:
    """Of two versions the nearer one is used, without a wish the newest of them all by name and number."""
    for framework, scale in (("vllm-0.10.0", 1.0), ("vllm-0.24.0", 2.0), ("sglang-0.5.0", 3.0)):
        rows = [
            row | {"latency_s": scale * row["latency_s"], "origin": "imported:x", "framework": framework}
            for row in gemm_rows(cluster)
        ]
        empty.append("gemm", rows, framework)
    costs = FittedCosts(fit_device(empty, DEVICE, cluster, framework=wanted), cluster)
    price = costs.predict(Gemm(m=16, n=1024, k=1024)).latency_s
    assert price / true_gemm_s(cluster, 16, 1024, 1024) == pytest.approx(factor)


def test_a_sick_cell_is_reported_and_repaired_on_request(empty: Store, cluster: ClusterSpec) -> None:
    """A cell slower than a larger call is counted; verbatim by default, lowered with the repair."""
    rows = gemm_rows(cluster)
    sick = next(row for row in rows if (row["m"], row["n"], row["k"]) == (64, 2048, 4096))
    sick["latency_s"] *= 5
    empty.append("gemm", rows, "run-1")
    op = Gemm(m=64, n=2048, k=4096)
    verbatim = fit_device(empty, DEVICE, cluster)
    assert verbatim.reports[0].suspicious == {"bf16|aligned: slower than a larger call": 1}
    assert FittedCosts(verbatim, cluster).predict(op).latency_s == sick["latency_s"]
    repaired = FittedCosts(fit_device(empty, DEVICE, cluster, is_monotone=True), cluster)
    assert repaired.predict(op).latency_s == true_gemm_s(cluster, 128, 2048, 4096)
    aligned = repaired.predict(Gemm(m=8 * np.arange(1, 128), n=2048, k=4096)).latency_s
    assert np.all(np.diff(aligned) >= -1e-12)


def test_rows_faster_than_the_roofline_are_reported_and_kept(empty: Store, cluster: ClusterSpec) -> None:
    """A measurement may beat the stated peaks: it is returned verbatim and called suspicious."""
    rows = gemm_rows(cluster)
    fast = next(row for row in rows if (row["m"], row["n"], row["k"]) == (1, 4096, 4096))
    fast["latency_s"] = 1e-6
    empty.append("gemm", rows, "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    assert artefact.reports[0].suspicious["faster than the roofline"] >= 1
    assert FittedCosts(artefact, cluster).predict(Gemm(m=1, n=4096, k=4096)).latency_s == 1e-6


def test_rows_at_a_locked_clock_are_used_for_prices_at_that_clock(empty: Store, cluster: ClusterSpec) -> None:
    """With two clocks measured, a price at either is its own rows', one between is scaled from the nearer."""
    free = gemm_rows(cluster)
    locked = [row | {"latency_s": 1.7 * row["latency_s"], "clock_mhz": 990.0} for row in free]
    empty.append("gemm", free + locked, "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    op = Gemm(m=1024, n=4096, k=4096)
    truth = true_gemm_s(cluster, 1024, 4096, 4096)
    assert FittedCosts(artefact, cluster).predict(op).latency_s == truth
    assert FittedCosts(artefact, cluster, 990.0).predict(op).latency_s == pytest.approx(1.7 * truth)
    slower = FittedCosts(artefact, cluster, 900.0).predict(op)
    assert 1.7 * truth < slower.latency_s < 1.7 * truth * 1.1
    assert slower.source != Source.MEASURED


def test_the_device_must_be_named_when_several_were_measured(empty: Store, cluster: ClusterSpec) -> None:
    """None, one and two devices: a hint, the one, the choice."""
    with pytest.raises(UserError, match="0 devices"):
        choose_device(empty, None)
    empty.append("gemm", gemm_rows(cluster), "run-1")
    assert choose_device(empty, None) == DEVICE
    empty.append("gemm", [row | {"device": "b200"} for row in gemm_rows(cluster)], "run-2")
    with pytest.raises(UserError, match="2 devices: b200, h100-sxm"):
        choose_device(empty, None)
    with pytest.raises(UserError, match="'v100'"):
        choose_device(empty, "v100")


def test_the_default_cluster_has_the_devices_links_at_every_level() -> None:
    """The bundled cluster with most levels is chosen; another device's is refused."""
    assert len(choose_cluster(DEVICE, None).levels) == 2
    with pytest.raises(UserError, match=r"b200.*h100-sxm"):
        choose_cluster(DEVICE, "b200-8")
    with pytest.raises(UserError, match="no bundled cluster"):
        choose_cluster("imagined", None)


def test_of_one_point_the_measurement_closest_to_serving_counts(empty: Store, cluster: ClusterSpec) -> None:
    """Cold and from a graph wins over hot and eager; a point with an eager row alone keeps it."""
    rows = gemm_rows(cluster)
    hot = [row | {"cache": "hot", "latency_s": 0.5 * row["latency_s"]} for row in rows]
    eager = [row | {"launch": "eager", "latency_s": 9 * row["latency_s"]} for row in rows]
    alone = eager[0] | {"m": 2048, "latency_s": 3e-5}
    empty.append("gemm", [*rows, *hot, *eager, alone], "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    costs = FittedCosts(artefact, cluster)
    assert costs.predict(Gemm(m=16, n=1024, k=1024)).latency_s == true_gemm_s(cluster, 16, 1024, 1024)
    assert costs.predict(Gemm(m=2048, n=rows[0]["n"], k=rows[0]["k"])).latency_s == 3e-5
    assert artefact.reports[0].dropped == {
        "the same point was measured closer to serving (graph, cache state)": len(hot) + len(eager)
    }


@pytest.mark.parametrize(
    ("wanted", "factor", "reason"),
    [
        (None, 1.0, "the same point runs on a kernel of the engine, or a faster one"),
        ("vllm-0.33.0", 2.0, "of a kernel that the engine does not run: they tell ratios, not prices"),
    ],
)
def test_of_several_kernels_the_engines_own_counts_else_the_fastest(
    empty: Store, cluster: ClusterSpec, wanted: str | None, factor: float, reason: str
) -> None:
    """Three backends ran every point: repeats of one are repeats, another backend is a choice, not a repeat."""
    rows = gemm_rows(cluster)
    slower = [row | {"backend": "torch.slow", "latency_s": 3 * row["latency_s"]} for row in rows]
    own = [row | {"backend": "vllm.cutlass_scaled_mm", "latency_s": 2 * row["latency_s"]} for row in rows]
    empty.append("gemm", [*rows, *slower, *own], "run-1")
    artefact = fit_device(empty, DEVICE, cluster, framework=wanted)
    assert artefact.reports[0].dropped == {reason: 2 * len(rows)}
    price = FittedCosts(artefact, cluster).predict(Gemm(m=16, n=1024, k=1024)).latency_s
    assert price == factor * true_gemm_s(cluster, 16, 1024, 1024)


def test_eager_rows_of_points_planned_as_graphs_stay_out(empty: Store, cluster: ClusterSpec) -> None:
    """The host's launches are in their time; the point is priced by its neighbours, and the row is counted."""
    rows = gemm_rows(cluster)
    slow = rows.pop(5)
    refused = slow | {"status": "unsupported", "latency_s": None, "note": "not graph-captured, measured eagerly: x"}
    empty.append("gemm", [*rows, refused, slow | {"launch": "eager", "latency_s": 9 * slow["latency_s"]}], "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    found = FittedCosts(artefact, cluster).predict(Gemm(m=slow["m"], n=slow["n"], k=slow["k"]))
    assert found.latency_s == pytest.approx(slow["latency_s"], rel=0.2)
    reason = "launched by the host, because no graph could record them: its time is in theirs"
    assert artefact.reports[0].dropped == {"status unsupported": 1, reason: 1}
