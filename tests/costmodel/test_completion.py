"""Labels nobody measured here, taken from an earlier fit of the same device."""

from pathlib import Path

import numpy as np

from cluster_specs.cluster import ClusterSpec
from costmodel.cost_model import Source
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.fitting.prior import Prior
from costmodel.fitting.report import fit_text
from costmodel.ops.op_types import Collective, Gemm
from profiles_db.store import open_store

from .conftest import DEVICE, gemm_rows

MESSAGE = Collective(kind="all_reduce", message_bytes=np.array([2.0**20, 3e6, 2.0**26]), ranks=8)


def own_fit(folder: Path, cluster: ClusterSpec, prior: Prior | None) -> Artefact:
    """Fit GEMMs alone, a third slower than the prior's."""
    store = open_store(folder, bundled=None)
    store.append("gemm", [row | {"latency_s": 1.3 * row["latency_s"]} for row in gemm_rows(cluster)], "run-2")
    return fit_device(store, DEVICE, cluster, prior=prior)


def test_families_of_the_same_device_come_whole_and_are_named(
    tmp_path: Path, artefact: Artefact, cluster: ClusterSpec
) -> None:
    """Collectives have the earlier fit's prices and sources, own GEMMs their own; report, origin and file say so."""
    mixed = own_fit(tmp_path / "db", cluster, Prior(artefact, cluster))
    save_artefact(mixed, tmp_path / "mixed.parquet")
    loaded = load_artefact(tmp_path / "mixed.parquet")
    assert loaded.provenance.from_prior.keys() == mixed.provenance.from_prior.keys()
    earlier = FittedCosts(artefact, cluster)
    for costs in (FittedCosts(mixed, cluster), FittedCosts(loaded, cluster)):
        found, known = costs.predict(MESSAGE), earlier.predict(MESSAGE)
        assert found.latency_s.tolist() == known.latency_s.tolist()
        assert found.source.tolist() == known.source.tolist()
        own = costs.predict(Gemm(m=16, n=1024, k=1024))
        assert own.latency_s == 1.3 * earlier.predict(Gemm(m=16, n=1024, k=1024)).latency_s
        assert "collective" in costs.origin
    assert "gemm" not in mixed.provenance.from_prior
    assert "taken from the fit of h100-sxm, not measured here: collective all_gather|nvlink" in fit_text(mixed)
    assert "not fitted: collective: no rows; its prices are an earlier fit's" in fit_text(mixed)
    assert {row.family for row in mixed.held_out} == {row.family for row in artefact.held_out}


def test_a_format_nobody_measured_joins_those_of_its_family(
    tmp_path: Path, artefact: Artefact, cluster: ClusterSpec
) -> None:
    """FP8 GEMMs stand beside the prior's bf16 ones, each with its own curves."""
    store = open_store(tmp_path / "db", bundled=None)
    store.append(
        "gemm", [row | {"dtype": "fp8", "latency_s": 0.6 * row["latency_s"]} for row in gemm_rows(cluster)], "r"
    )
    costs = FittedCosts(fit_device(store, DEVICE, cluster, prior=Prior(artefact, cluster)), cluster)
    bf16, fp8 = (costs.predict(Gemm(m=64, n=2048, k=4096, dtype=dtype)) for dtype in ("bf16", "fp8"))
    assert bf16.source == fp8.source == Source.MEASURED
    assert fp8.latency_s == 0.6 * bf16.latency_s


def test_collectives_on_other_links_stay_out(tmp_path: Path, artefact: Artefact, cluster: ClusterSpec) -> None:
    """What ran on faster links is no measurement of this cluster's: its levels are left to the analytic model."""
    slower = cluster.levels[0].model_copy(update={"bandwidth_bytes_per_s": 1e11})
    other = cluster.model_copy(update={"levels": (slower, *cluster.levels[1:])})
    mixed = own_fit(tmp_path / "db", other, Prior(artefact, cluster))
    taken = mixed.provenance.from_prior.get("collective", ())
    assert not any("|nvlink" in label for label in taken)
    assert mixed.provenance.links["nvlink"]["bandwidth_bytes_per_s"] == 1e11


def test_a_relatives_families_stay_out(tmp_path: Path, artefact: Artefact, cluster: ClusterSpec) -> None:
    """Another device's collectives are no better than the analytic model's."""
    relative = Prior.choose("h200-sxm", DEVICE)
    mixed = own_fit(tmp_path / "db", cluster, relative)
    assert not mixed.provenance.from_prior
    assert set(mixed.families) == {"gemm"}
    assert (FittedCosts(mixed, cluster).predict(MESSAGE).source == Source.ANALYTIC).all()
