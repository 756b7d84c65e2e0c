"""The bundled fits are whole, are of the device they are named after, and are chosen only where they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import profiles_db
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import bundled_fit, choose_costs, devices_with_fit, engine_fits
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fitted_costs import EngineCosts, FittedCosts
from costmodel.ops.op_types import Attention, Gemm, Moe
from costmodel.pricing.analytic_costs import AnalyticCosts

_FITS = sorted((Path(profiles_db.__file__).parent / "fitted").glob("*.parquet"))


@pytest.mark.parametrize("path", _FITS, ids=lambda path: path.stem)
def test_bundled_fit_is_whole(path: Path) -> None:
    """Each file is a fit of the device it is named after, from rows whose origin it states, with held-out errors."""
    artefact = load_artefact(path)
    assert artefact.provenance.device == path.stem
    assert {"gemm", "attention"} <= set(artefact.families)
    origin, *more = artefact.provenance.origins
    assert not more
    # One GPU of LLMServingSim's measures no collectives.
    assert ("collective" in artefact.families) == origin.startswith("imported:aiconfigurator-core")
    assert origin.startswith(("imported:aiconfigurator-core", "imported:llmservingsim"))
    assert artefact.held_out
    assert bundled_fit(path.stem) == path


def test_fits_of_engines_are_of_the_kernels_they_do_not_share() -> None:
    """Attention and experts alone, of a device that has a fit of its own."""
    for device in devices_with_fit():
        for engine, path in engine_fits(device).items():
            artefact = load_artefact(path)
            assert (engine, artefact.provenance.device) == (path.parent.name, device)
            assert set(artefact.families) <= {"attention", "moe"}


def test_choice_follows_the_user_then_the_device() -> None:
    """No choice takes the bundled fit or, where there is none, the constants; `analytic` and a file are obeyed."""
    h100, v100 = load_cluster("h100-sxm-8"), load_cluster("v100-sxm2-8")
    assert isinstance(choose_costs(None, h100), FittedCosts)
    assert isinstance(choose_costs(None, v100), AnalyticCosts)
    assert isinstance(choose_costs("analytic", h100), AnalyticCosts)
    assert isinstance(choose_costs(_FITS[0], load_cluster(f"{_FITS[0].stem}-8"), 900.0), FittedCosts)
    with pytest.raises(UserError, match="the fitted model is of device"):
        choose_costs(bundled_fit("h100-sxm"), v100)


def test_an_engines_own_kernels_answer_where_they_were_measured(tmp_path: Path) -> None:
    """Its attention replaces the device's, of experts the faster counts, products stay; others see neither."""
    cluster = load_cluster("a100-sxm-80gb-8")
    whole = load_artefact(_FITS[0])
    own = tmp_path / "own.parquet"
    halves = {
        name: replace(whole.families[name], latency_s=0.5 * whole.families[name].latency_s)
        for name in ("attention", "moe")
    }
    save_artefact(replace(whole, families=halves), own)
    doubled = {
        **whole.families,
        "attention": replace(halves["attention"], latency_s=0.25 * halves["attention"].latency_s),
    }
    costs = FittedCosts(replace(whole, families=doubled), cluster, engine_fits={"tensorrt-llm": own})
    assert costs.of_engine("vllm") is costs
    engine = costs.of_engine("tensorrt-llm")
    assert isinstance(engine, EngineCosts)
    assert "as tensorrt-llm runs them" in engine.origin
    assert engine.of_engine("vllm") is costs
    alone = FittedCosts(load_artefact(own), cluster)
    attention = Attention(
        num_heads=8, num_kv_heads=1, head_dim=128, v_head_dim=128, num_decode=8, decode_kv=8192, decode_kv_max=1024
    )
    assert (
        engine.predict(attention).latency_s == alone.predict(attention).latency_s != costs.predict(attention).latency_s
    )
    experts = Moe(num_tokens=np.array([1, 64, 4096]), hidden=4096, inter=14336, num_experts=8, topk=2, tp=8)
    faster = np.minimum(costs.predict(experts).latency_s, alone.predict(experts).latency_s)
    assert engine.predict(experts).latency_s.tolist() == faster.tolist()
    product = Gemm(m=64, n=8192, k=8192)
    assert engine.predict(product).latency_s == costs.predict(product).latency_s
    assert AnalyticCosts(cluster).of_engine("tensorrt-llm").predict(product).latency_s > 0
