"""Constants, power and derived calls learnt back from machines whose constants are known."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.device import AnalyticConstants, Constant
from cluster_specs.errors import UserError
from cluster_specs.load import bundled_devices, load_cluster, load_device
from costmodel.fitted.reference import Reference
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.calibrate_constants import calibrate, constants_toml
from costmodel.fitting.fit_device import fit_device
from costmodel.fitting.fit_power import FEWEST_ENERGY_ROWS, non_negative_least_squares
from costmodel.ops.op_types import Attention, Gemm
from costmodel.ops.roofline import roofline
from costmodel.power_model import PowerModel
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import Store, open_store

from .conftest import DEVICE, attention_rows, common, gemm_rows


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    """Open an empty database."""
    return open_store(tmp_path / "db", bundled=None)


def test_calibration_finds_the_constants_of_an_analytic_machine(empty: Store, cluster: ClusterSpec) -> None:
    """Rows priced by the analytic model give its efficiencies back within 3 %, with source and error."""
    costs = AnalyticCosts(cluster)
    rows = []
    for n, k in ((16384, 16384), (8192, 16384), (16384, 8192), (65536, 8192)):
        for m in (1, 2, 4, 8, 2048, 4096, 8192, 16384):
            latency_s = float(costs.predict(Gemm(m=m, n=n, k=k)).latency_s)
            rows.append(common(latency_s, m=m, n=n, k=k, scaling="none", quantise=False))
        rows += [
            common(float(costs.predict(Gemm(m=1, n=64, k=k // 128)).latency_s), m=1, n=64, k=k // 128)
            | {"scaling": "none", "quantise": False}
        ]
    empty.append("gemm", rows, "run-1")
    found = {constant.key: constant for constant in calibrate(empty, cluster)}
    analytic = cluster.device.analytic
    assert found["memory_efficiency"].value == pytest.approx(analytic.memory_efficiency.value, rel=0.03)
    assert found["gemm_efficiency.bf16"].value == pytest.approx(analytic.gemm_efficiency["bf16"].value, rel=0.03)
    assert "measured" in found["memory_efficiency"].source
    assert "80 %" in found["memory_efficiency"].error
    assert "attention_efficiency" not in found  # nothing measured, nothing claimed


def test_nvfp4_products_tell_what_fp4_units_reach(empty: Store) -> None:
    """The unit has the name of what it computes, rows that of what is stored."""
    cluster = load_cluster("b200-8")
    rows = []
    for n, k in ((16384, 16384), (8192, 16384), (16384, 8192)):
        for m in (1, 8, 8192, 16384, 32768, 65536):
            op = Gemm(m=m, n=n, k=k, dtype="nvfp4")
            seconds = float(op.flop()) / (0.4 * cluster.device.peak_flop_per_s["fp4"])
            row = common(seconds, m=m, n=n, k=k, scaling="group16", quantise=False)
            rows.append(row | {"dtype": "nvfp4", "device": cluster.device.name})
    empty.append("gemm", rows, "run-1")
    found = {constant.key: constant.value for constant in calibrate(empty, cluster)}
    assert found["gemm_efficiency.fp4"] == pytest.approx(0.4, rel=0.02)


def test_calibrated_lines_are_valid_constants_of_a_device_file(store: Store, cluster: ClusterSpec) -> None:
    """The TOML parses, and every line is a constant the device spec accepts."""
    table = tomllib.loads(constants_toml(calibrate(store, cluster)))["analytic"]
    nested = table.pop("gemm_efficiency", {})
    assert set(table) <= set(AnalyticConstants.model_fields)
    for line in (*table.values(), *nested.values()):
        Constant(**line)


def test_a_database_without_any_row_calibrates_nothing(empty: Store, cluster: ClusterSpec) -> None:
    """The message names the device, the hint what to measure."""
    with pytest.raises(UserError, match=DEVICE):
        calibrate(empty, cluster)


@pytest.mark.parametrize("name", bundled_devices())
def test_every_bundled_constant_has_a_source_and_an_error(name: str) -> None:
    """No constant stands without where it comes from and how far it scatters."""
    analytic = load_device(name).analytic
    constants = [getattr(analytic, field) for field in AnalyticConstants.model_fields if field != "gemm_efficiency"]
    for constant in (*constants, *analytic.gemm_efficiency.values()):
        assert constant.source
        assert constant.error


def test_power_constants_are_learnt_from_measured_joules(empty: Store, cluster: ClusterSpec) -> None:
    """Joules of a machine that draws 150 W awake and 100 pJ per byte give both back, and the fit says so."""
    rows = []
    for row in gemm_rows(cluster):
        op = Gemm(m=row["m"], n=row["n"], k=row["k"])
        joules = 150.0 * row["latency_s"] + 100e-12 * float(op.io_bytes()) + 0.3e-12 * float(op.flop())
        rows.append(row | {"energy_j": joules})
    empty.append("gemm", rows, "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    assert artefact.power is not None
    assert artefact.power.awake_w == pytest.approx(150.0, rel=0.02)
    assert artefact.power.j_per_byte == pytest.approx(100e-12, rel=0.02)
    assert artefact.power.j_per_flop["bf16"] == pytest.approx(0.3e-12, rel=0.02)
    assert artefact.provenance.energy_source.startswith("measured: ")
    found = FittedCosts(artefact, cluster).predict(Gemm(m=16, n=2048, k=4096))
    truth = next(row["energy_j"] for row in rows if (row["m"], row["n"], row["k"]) == (16, 2048, 4096))
    assert found.energy_j == pytest.approx(truth, rel=0.03)


def test_how_energy_falls_with_the_clock_is_learnt_from_a_sweep(empty: Store, cluster: ClusterSpec) -> None:
    """Joules of a machine whose energy goes with the clock to the power 1.4 give it back, with an error."""
    machine = replace(
        PowerModel.from_device(cluster.device), awake_w=150.0, voltage_exponent=1.4, j_per_byte=100e-12, error_frac=0.0
    )
    rows = []
    for clock in (None, 1400.0, 1200.0):
        for row in gemm_rows(cluster):
            op = Gemm(m=row["m"], n=row["n"], k=row["k"])
            seconds = np.asarray(row["latency_s"])
            joules = machine.op_energy_j(op, roofline(op, cluster), seconds, clock)
            rows.append(row | {"energy_j": float(joules), "clock_mhz": clock})
    empty.append("gemm", rows, "run-1")
    artefact = fit_device(empty, DEVICE, cluster)
    assert artefact.power is not None
    assert artefact.power.voltage_exponent == pytest.approx(1.4, abs=0.05)
    assert artefact.power.voltage_exponent_error < 0.2
    assert "energy goes with the clock to the power 1.4" in artefact.provenance.energy_source


def test_too_few_joules_say_how_many_are_needed(artefact_without_joules: str) -> None:
    """Without measured joules energy is derived, and the fit says so with both numbers."""
    assert artefact_without_joules == (
        f"0 rows with joules below the power limit, {FEWEST_ENERGY_ROWS} needed: energy is derived"
    )


@pytest.fixture
def artefact_without_joules(store: Store, cluster: ClusterSpec) -> str:
    """Return what a fit without joules says about energy."""
    return fit_device(store, DEVICE, cluster).provenance.energy_source


def test_least_squares_never_returns_a_negative_constant() -> None:
    """A column that would get a negative weight is dropped, the others are solved again."""
    design = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    found = non_negative_least_squares(design, np.array([3.0, 2.0, 1.0]))
    assert found.tolist() == pytest.approx([2.0, 0.0])


def test_a_reference_is_learnt_from_few_calls() -> None:
    """Twenty calls of a known machine give its reference time back within 3 %."""
    rng = np.random.default_rng(0)
    flop_s, bytes_s = 10 ** rng.uniform(-7, -3, 20), 10 ** rng.uniform(-7, -3, 20)
    truth = Reference(floor_s=5e-6, compute_efficiency=0.4, memory_efficiency=0.7)
    latency_s = truth.seconds(flop_s, bytes_s)
    found = Reference.fit(latency_s, flop_s, bytes_s, compute=0.8, memory=0.8)
    assert found.seconds(flop_s, bytes_s) == pytest.approx(latency_s, rel=0.03)


def test_measured_chunks_and_mixed_calls_correct_what_is_derived_for_them(empty: Store, cluster: ClusterSpec) -> None:
    """Chunks measured at 1.4 times their derived time are priced so afterwards, whole prompts as before."""
    empty.append("attention", attention_rows(cluster), "run-1")
    before = FittedCosts(fit_device(empty, DEVICE, cluster), cluster)
    heads = {"num_heads": 8, "num_kv_heads": 1, "head_dim": 128, "v_head_dim": 128}
    rows = []
    for q, kv in ((16, 512), (64, 512), (128, 2048), (512, 2048), (512, 8192), (128, 8192), (64, 4096)):
        op = Attention(**heads, num_prefill=1, prefill_q=q, prefill_kv=kv)
        rows.append(
            common(1.4 * float(before.predict(op).latency_s), phase="prefill", backend="vllm.flash_attn_fa3")
            | heads
            | {"variant": "gqa", "kv_dtype": "bf16", "window": 0, "num_prefill": 1, "prefill_q": q, "prefill_kv": kv}
            | {"num_decode": 0, "decode_q": 1, "decode_kv": 0, "decode_kv_max": 0}
        )
    empty.append("attention", rows, "run-2")
    artefact = fit_device(empty, DEVICE, cluster)
    assert artefact.families["attention"].derived["prefix"].factor == pytest.approx(1.4)
    after = FittedCosts(artefact, cluster)
    chunk = Attention(**heads, num_prefill=1, prefill_q=256, prefill_kv=4096)
    whole = Attention(**heads, num_prefill=1, prefill_q=512, prefill_kv=512)
    assert after.predict(chunk).latency_s == pytest.approx(1.4 * before.predict(chunk).latency_s)
    assert after.predict(whole).latency_s == before.predict(whole).latency_s


def test_the_power_model_of_a_spec_names_its_source() -> None:
    """Derived energy says what it is derived from."""
    assert "A100" in PowerModel.from_device(load_device("b200")).source
