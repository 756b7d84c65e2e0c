"""Two fits laid over each other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.compare.compare_command import compare
from costmodel.compare.held_out_prices import points_of_families
from costmodel.compare.two_fits import overlay_rows, overlay_verdict, overlays
from costmodel.fit_file.artefact import save_artefact
from costmodel.fit_file.contents import Artefact

DEVICE = "rtx-4090"


def slower(rtx_4090_fit: Artefact, factor: float) -> Artefact:
    """Return the fit of a device whose products all take ``factor`` times as long."""
    gemm = rtx_4090_fit.families["gemm"]
    shifted = replace(gemm, latency_s=gemm.latency_s * factor, residual=gemm.residual + np.log(factor))
    return replace(rtx_4090_fit, families={**rtx_4090_fit.families, "gemm": shifted})


def test_a_fit_agrees_with_itself(rtx_4090_fit: Artefact, rtx_4090: ClusterSpec) -> None:
    """Every point is priced as measured, in every family and label."""
    rows = overlay_rows(overlays(points_of_families(rtx_4090_fit, rtx_4090), rtx_4090_fit, rtx_4090, rtx_4090))
    assert {row["family"] for row in rows} == set(rtx_4090_fit.families)
    assert all(row["ratio_p10"] == row["ratio_p90"] == pytest.approx(1.0) for row in rows)
    assert overlay_verdict(rows, "a", "b").startswith("100.0% of the prices of b lie within 10 % of what a measured")


def test_the_ratio_is_the_second_over_the_first(rtx_4090_fit: Artefact, rtx_4090: ClusterSpec) -> None:
    """Products that take half as long again show as 1.5, and the verdict names a label of theirs."""
    second = slower(rtx_4090_fit, 1.5)
    rows = overlay_rows(overlays(points_of_families(rtx_4090_fit, rtx_4090), second, rtx_4090, rtx_4090))
    ratios = {(row["family"], row["label"]): row["ratio_p50"] for row in rows}
    assert ratios["gemm", "bf16|aligned"] == pytest.approx(1.5)
    assert ratios["elementwise", "rope"] == pytest.approx(1.0)
    assert "They agree least in gemm bf16|" in overlay_verdict(rows, "a", "b")


def test_fits_without_a_label_in_common_are_refused(rtx_4090_fit: Artefact, rtx_4090: ClusterSpec) -> None:
    """There is nothing to lay over."""
    other = replace(rtx_4090_fit, families={"attention": rtx_4090_fit.families["attention"]})
    with pytest.raises(UserError, match="share no label"):
        overlays(points_of_families(rtx_4090_fit, rtx_4090, ["gemm"]), other, rtx_4090, rtx_4090)


def test_command_draws_two_fits(rtx_4090_fit: Artefact, tmp_path: Path) -> None:
    """A figure per label of both, in one page; the clusters are those of the fits."""
    first, second, out = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "page"
    save_artefact(rtx_4090_fit, first)
    save_artefact(slower(rtx_4090_fit, 1.2), second)
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
