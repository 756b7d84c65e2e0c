"""The bundled fits are whole, are of the device they are named after, and are chosen only where they are."""

from pathlib import Path

import pytest

import profiles_db
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import bundled_fit, choose_costs
from costmodel.fit_file.artefact import load_artefact
from costmodel.fitted_costs import FittedCosts
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


def test_choice_follows_the_user_then_the_device() -> None:
    """No choice takes the bundled fit or, where there is none, the constants; `analytic` and a file are obeyed."""
    h100, v100 = load_cluster("h100-sxm-8"), load_cluster("v100-sxm2-8")
    assert isinstance(choose_costs(None, h100), FittedCosts)
    assert isinstance(choose_costs(None, v100), AnalyticCosts)
    assert isinstance(choose_costs("analytic", h100), AnalyticCosts)
    assert isinstance(choose_costs(_FITS[0], load_cluster(f"{_FITS[0].stem}-8"), 900.0), FittedCosts)
    with pytest.raises(UserError, match="the fitted model is of device"):
        choose_costs(bundled_fit("h100-sxm"), v100)
