"""Rows of measured servers are rejected by rule, and errors are what they say they are."""

import math

import pytest

from benchmarks.fidelity.errors import errors
from benchmarks.fidelity.groups import GROUPS
from benchmarks.fidelity.rejection import implied_flop_per_s, rejections
from cluster_specs.load import load_cluster
from simulator.model.load_model import load_model

_GROUP = next(group for group in GROUPS if group.name.startswith("vLLM 2025, Llama-3.1-70B FP8, H200"))


def _row(name: str, **changes: object) -> dict[str, str]:
    """Return a plausible run of Llama-3.1-70B on one H200: 1k in, 1k out, 16 at a time."""
    row = {
        "id": name,
        "isl": 1024,
        "osl": 1024,
        "concurrency": 16,
        "gpus": 1,
        "tp_size": 1,
        "attention_dp_size": 1,
        "moe_tp_size": 1,
        "moe_ep_size": 1,
        "silicon_ttft_ms": 300.0,
        "silicon_tpot_ms": 25.0,
    }
    return {key: str(value) for key, value in (row | changes).items()}


def _reasons(*rows: dict[str, str]) -> dict[str, str]:
    return rejections(rows, _GROUP, load_model("llama-3.1-70b"), load_cluster("h200-sxm-8"))


def test_plausible_rows_are_kept() -> None:
    """A light and a heavy load with growing times break no rule."""
    assert _reasons(_row("a"), _row("b", concurrency=64, silicon_ttft_ms=700, silicon_tpot_ms=38)) == {}


def test_more_arithmetic_than_the_device_has_is_rejected() -> None:
    """A prompt answered in 5 ms needs 1024 x 2 x 70.6e9 FLOP in that time, many times the peak."""
    reasons = _reasons(_row("fast", silicon_ttft_ms=5.0))
    assert "of the dense peak" in reasons["fast"]
    assert implied_flop_per_s(_row("fast", silicon_ttft_ms=5.0), 70_600_000_000) == pytest.approx(2.89e16, rel=0.01)


def test_faster_under_more_load_is_rejected_beyond_noise() -> None:
    """Five percent is noise, six is not; rows of another length are no siblings."""
    light = _row("light", concurrency=8, silicon_tpot_ms=25.0)
    assert _reasons(light, _row("same", silicon_tpot_ms=24.0)) == {}
    assert "at concurrency 8" in _reasons(light, _row("faster", silicon_tpot_ms=23.4))["faster"]
    assert _reasons(light, _row("other", osl=2048, silicon_tpot_ms=23.4)) == {}


def test_concurrency_beyond_any_default_is_rejected() -> None:
    """Above 256 in flight an unrecorded max_num_seqs decides."""
    assert set(_reasons(_row("many", concurrency=512, silicon_tpot_ms=120.0))) == {"many"}


def test_errors_are_relative_and_signed() -> None:
    """+10 and -30 percent: MAPE and median 20, bias -10; unknown predictions do not count."""
    found = errors([1.1, 0.7, math.nan], [1.0, 1.0, 1.0])
    assert found is not None
    assert (found.count, found.mape, found.bias) == (2, pytest.approx(20.0), pytest.approx(-10.0))
    assert errors([math.nan], [1.0]) is None


def test_every_row_belongs_to_one_group() -> None:
    """No group takes another's rows: their names and conditions differ."""
    assert len({group.name for group in GROUPS}) == len(GROUPS)
    row = {"model_path": "openai/gpt-oss-120b", "backend_version": "0.18.0", "system": "h100_sxm", "backend": "vllm"}
    row["precision"] = "fp4"
    assert sum(group.holds(row) for group in GROUPS) == 1
