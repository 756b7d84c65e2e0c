"""Two fits laid over each other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import bundled_fit
from costmodel.compare.compare_command import compare
from costmodel.compare.held_out_prices import points_of_families
from costmodel.compare.two_fits import overlay_rows, overlay_verdict, overlays
from costmodel.fit_file.artefact import Artefact, load_artefact, save_artefact

DEVICE = "rtx-4090"


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    path = bundled_fit(DEVICE)
    assert path is not None
    return load_artefact(path)


@pytest.fixture(scope="module")
def cluster(artefact: Artefact) -> ClusterSpec:
    return load_cluster(artefact.provenance.cluster)


def slower(artefact: Artefact, factor: float) -> Artefact:
    """Return the fit of a device whose products all take ``factor`` times as long."""
    gemm = artefact.families["gemm"]
    shifted = replace(gemm, latency_s=gemm.latency_s * factor, residual=gemm.residual + np.log(factor))
    return replace(artefact, families={**artefact.families, "gemm": shifted})


def test_a_fit_agrees_with_itself(artefact: Artefact, cluster: ClusterSpec) -> None:
    """Every point is priced as measured, in every family and label."""
    rows = overlay_rows(overlays(points_of_families(artefact, cluster), artefact, cluster, cluster))
    assert {row["family"] for row in rows} == set(artefact.families)
    assert all(row["ratio_p10"] == row["ratio_p90"] == pytest.approx(1.0) for row in rows)
    assert overlay_verdict(rows, "a", "b").startswith("100.0% of the prices of b lie within 10 % of what a measured")


def test_the_ratio_is_the_second_over_the_first(artefact: Artefact, cluster: ClusterSpec) -> None:
    """Products that take half as long again show as 1.5, and the verdict names a label of theirs."""
    second = slower(artefact, 1.5)
    rows = overlay_rows(overlays(points_of_families(artefact, cluster), second, cluster, cluster))
    ratios = {(row["family"], row["label"]): row["ratio_p50"] for row in rows}
    assert ratios["gemm", "bf16|aligned"] == pytest.approx(1.5)
    assert ratios["elementwise", "rope"] == pytest.approx(1.0)
    assert "They agree least in gemm bf16|" in overlay_verdict(rows, "a", "b")


def test_fits_without_a_label_in_common_are_refused(artefact: Artefact, cluster: ClusterSpec) -> None:
    """There is nothing to lay over."""
    other = replace(artefact, families={"attention": artefact.families["attention"]})
    with pytest.raises(UserError, match="share no label"):
        overlays(points_of_families(artefact, cluster, ["gemm"]), other, cluster, cluster)


def test_command_draws_two_fits(artefact: Artefact, tmp_path: Path) -> None:
    """A figure per label of both, in one page; the clusters are those of the fits."""
    first, second, out = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "page"
    save_artefact(artefact, first)
    save_artefact(slower(artefact, 1.2), second)
    asked = [str(first), str(second), "--family", "gemm", "--json", "--out", str(out)]
    result = CliRunner().invoke(compare, asked)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {row["label"] for row in document["labels"]} == {"all", "bf16|aligned", "bf16|ragged"}
    names = sorted(entry.name for entry in out.iterdir())
    assert names == ["index.html", "overlay_gemm_bf16_aligned.png", "overlay_gemm_bf16_ragged.png"]
    assert "nan" not in (out / "index.html").read_text()
    refused = CliRunner().invoke(compare, [str(first), str(second), "--match", "backend"])
    assert isinstance(refused.exception, UserError)
    assert "two fits are compared at the points the first holds" in str(refused.exception)
