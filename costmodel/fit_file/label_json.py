"""A label's constants as JSON in a fit's metadata, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from cluster_specs.files.shown import shown
from costmodel.fitted.knots import Derived, Filling, LabelFit
from costmodel.fitted.reference import Reference
from costmodel.fitted.shape_factors import ShapeFactors, Term, no_term


def label_to_json(fit: LabelFit) -> dict[str, object]:
    """Everything of a label but its rows, and the held-out errors that stand with them."""
    return {
        "reference": asdict(fit.reference),
        "trend_log_s": fit.trend_log_s.tolist(),
        "trend": fit.trend.tolist(),
        "best_utilisation": fit.best_utilisation,
        "trust_along_x": fit.trust_along_x,
        "log_half_width": fit.log_half_width.tolist(),
        "size_edges_s": fit.size_edges_s.tolist(),
        "lent_factor": fit.lent_factor,
        "shape_factors": factors_to_json(fit.shape_factors),
        "filling": None if fit.filling is None else _filling_json(fit.filling),
    }


def _term_json(term: Term) -> dict[str, object]:
    return {"values": term.values.tolist(), "log_factor": term.log_factor.tolist()}


def factors_to_json(factors: ShapeFactors) -> dict[str, object]:
    """Lay out both terms of a label's factors."""
    return {"apart": _term_json(factors.apart), "rest": _term_json(factors.rest)}


def factors_from_json(part: Mapping[str, Any] | None) -> ShapeFactors:
    """Build a label's factors, none where a file has none; raises as ``label_from_json``."""
    if part is None:
        return ShapeFactors()
    return ShapeFactors(apart=_term(part["apart"]), rest=_term(part["rest"]))


def _term(part: Mapping[str, Any]) -> Term:
    if not part["values"]:
        return no_term()
    return Term(
        values=np.array(part["values"], dtype=np.float64), log_factor=np.array(part["log_factor"], dtype=np.float64)
    )


def _filling_json(filling: Filling) -> dict[str, object]:
    # JSON has no infinity.
    return {"trust": filling.trust, "alone": filling.alone if np.isfinite(filling.alone) else None}


def label_from_json(part: Mapping[str, Any]) -> LabelFit:
    """Build a label's constants; raises ``KeyError``, ``TypeError`` or ``ValueError`` for what they are not."""
    return LabelFit(
        reference=Reference(**{name: _number(value) for name, value in part["reference"].items()}),
        trend_log_s=np.array(part["trend_log_s"], dtype=np.float64),
        trend=np.array(part["trend"], dtype=np.float64),
        best_utilisation=_number(part["best_utilisation"]),
        trust_along_x=_number(part["trust_along_x"]),
        log_half_width=np.array(part["log_half_width"], dtype=np.float64),
        size_edges_s=np.array(part.get("size_edges_s", []), dtype=np.float64),  # schema 3 had none
        lent_factor=_number(part.get("lent_factor", 1.0)),
        shape_factors=factors_from_json(part.get("shape_factors")),  # schema 4 had none
        filling=_filling(part.get("filling")),  # schema 1 had none
    )


def derived_from_json(part: Mapping[str, Any]) -> Derived:
    """Build the correction of a derived kind; raises as ``label_from_json``."""
    return Derived(
        factor=_number(part["factor"]), log_half_width=_number(part["log_half_width"]), points=int(part["points"])
    )


def _number(value: Any) -> float:
    """Return a JSON number; raises ``TypeError`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{shown(value)} is not a number")
    return float(value)


def _filling(part: dict[str, Any] | None) -> Filling | None:
    if part is None:
        return None
    return Filling(trust=part["trust"], alone=np.inf if part["alone"] is None else part["alone"], errors={})


def errors_before_columns(part: Mapping[str, Any]) -> dict[str, list[float]]:
    """Held-out errors of a label as schema 4 and older kept them: of all points in order, or of an even sample."""
    kept = part["filling"]["errors"]
    return {question: [_number(error) for error in found["error"]] for question, found in kept.items()}
