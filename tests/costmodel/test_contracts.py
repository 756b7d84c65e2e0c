"""FP8 products whose times hold the rounding of their activations, and those whose times do not, are two quantities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.fitting.prior import Prior
from costmodel.fitting.report import fit_text
from costmodel.ops.op_types import Gemm
from costmodel.ops.small_ops import small_op
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import Store, open_store

from .conftest import DEVICE, NK, M, common

OUTSIDE = {"scaling": "row", "quantise": False}
INSIDE = {"scaling": "tensor", "quantise": True}
REASON = "scaled otherwise, or with rounding inside where most rows of their format have it outside"


def rounding_s(cluster: ClusterSpec, m: int, k: int) -> float:
    """Time of the imagined machine's rounding of [m, k]."""
    op = small_op("quantise", rows=m, width=k, dtype="bf16", out="fp8", scales=1)
    return float(AnalyticCosts(cluster).predict(op).latency_s)


def product_s(cluster: ClusterSpec, m: int, n: int, k: int) -> float:
    """Time of the imagined machine's FP8 product alone; ragged sizes a tenth slower."""
    ragged = 1.1 if m > 16 and m % 8 else 1.0
    return ragged * float(AnalyticCosts(cluster).predict(Gemm(m=m, n=n, k=k)).latency_s)


def products(cluster: ClusterSpec, contract: dict[str, Any], sizes: tuple[int, ...] = M) -> list[dict[str, Any]]:
    """Rows of FP8 products; where rounding is inside, their times hold it."""
    rows = []
    for (n, k), m in ((nk, m) for nk in NK for m in sizes):
        latency_s = product_s(cluster, m, n, k) + contract["quantise"] * rounding_s(cluster, m, k)
        rows.append(common(latency_s, backend="vllm.cutlass_scaled_mm", dtype="fp8", m=m, n=n, k=k) | contract)
    return rows


def roundings(cluster: ClusterSpec) -> list[dict[str, Any]]:
    """Rows of the rounding alone."""
    rows = []
    for m in (1, 8, 64, 256, 1024):
        for k in (1024, 4096):
            op = small_op("quantise", rows=m, width=k, dtype="bf16", out="fp8", scales=1)
            shape = {"op": "quantise", "rows": m, "width": k, "io_bytes": round(m * op.bytes_per_row)}
            rows.append(common(rounding_s(cluster, m, k), backend="triton", dtype=op.dtype, cache="hot") | shape)
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Open an empty database."""
    return open_store(tmp_path / "db", bundled=None)


@pytest.fixture
def tables(tmp_path: Path, cluster: ClusterSpec) -> Artefact:
    """Fit tables whose products hold the rounding, and the rounding alone."""
    store = open_store(tmp_path / "tables", bundled=None)
    store.append("gemm", products(cluster, INSIDE), "tables")
    store.append("elementwise", roundings(cluster), "tables")
    return fit_device(store, DEVICE, cluster)


def test_the_contract_of_most_rows_is_fitted_and_named(store: Store, cluster: ClusterSpec) -> None:
    """A few rows without the rounding do not mix with a table that holds it: they are counted, the label says so."""
    store.append("gemm", products(cluster, INSIDE), "tables")
    few = products(cluster, OUTSIDE, sizes=(16, 64))
    store.append("gemm", few, "own")
    artefact = fit_device(store, DEVICE, cluster)
    assert artefact.reports[0].dropped == {REASON: len(few)}
    assert "(scaling tensor, quantise true)" in fit_text(artefact)
    costs = FittedCosts(artefact, cluster)
    assert costs.includes_quantise("fp8")
    assert costs.predict(Gemm(m=16, n=1024, k=1024, dtype="fp8")).latency_s == product_s(
        cluster, 16, 1024, 1024
    ) + rounding_s(cluster, 16, 1024)


def test_an_earlier_fits_rounding_is_taken_off_where_new_rows_have_none(
    store: Store, cluster: ClusterSpec, tables: Artefact
) -> None:
    """Its price of a product is then that of the product alone, as near as its own curves are."""
    store.append("gemm", products(cluster, OUTSIDE, sizes=(8,)), "own")
    prior = Prior(tables, cluster).apart_from({"dtype": np.array(["fp8"]), "quantise": np.array([False])})
    m = np.array([1, 64, 256, 1024])
    found = prior.latency_s(Gemm(m=m, n=2048, k=4096, dtype="fp8"))
    assert found is not None
    assert found.tolist() == pytest.approx([product_s(cluster, size, 2048, 4096) for size in m.tolist()], rel=0.02)


def test_labels_that_hold_the_rounding_are_not_taken_beside_ones_that_do_not(
    store: Store, cluster: ClusterSpec, tables: Artefact
) -> None:
    """With own aligned products the earlier fit's ragged ones stay out: the answer to what is inside is one."""
    assert {label.text for label in tables.families["gemm"].labels} == {"fp8|aligned", "fp8|ragged"}
    store.append("gemm", products(cluster, OUTSIDE, sizes=(1, 8, 64)), "own")
    artefact = fit_device(store, DEVICE, cluster, prior=Prior(tables, cluster))
    assert {label.text for label in artefact.families["gemm"].labels} == {"fp8|aligned"}
    assert not FittedCosts(artefact, cluster).includes_quantise("fp8")
    assert "gemm" not in artefact.provenance.from_prior
