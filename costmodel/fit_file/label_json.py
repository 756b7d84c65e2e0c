"""A label's constants as JSON in a fit's metadata, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from cluster_specs.files.shown import shown
from costmodel.fitted.knots import Derived, Errors, Filling, LabelFit
from costmodel.fitted.reference import Reference


def label_to_json(fit: LabelFit) -> dict[str, object]:
    """Everything of a label but its rows."""
    return {
        "reference": asdict(fit.reference),
        "trend_log_s": fit.trend_log_s.tolist(),
        "trend": fit.trend.tolist(),
        "best_utilisation": fit.best_utilisation,
        "trust_along_x": fit.trust_along_x,
        "log_half_width": fit.log_half_width.tolist(),
        "filling": None if fit.filling is None else _filling_json(fit.filling),
    }


def _filling_json(filling: Filling) -> dict[str, object]:
    errors = {
        question: {
            "shape": found.shape.tolist(),
            "regime": found.regime.tolist(),
            "error": np.round(found.error, 5).tolist(),
        }
        for question, found in filling.errors.items()
    }
    # JSON has no infinity.
    return {"trust": filling.trust, "alone": filling.alone if np.isfinite(filling.alone) else None, "errors": errors}


def label_from_json(label: str, part: Mapping[str, Any]) -> LabelFit:
    """Build a label's constants; raises ``KeyError``, ``TypeError`` or ``ValueError`` for what they are not."""
    return LabelFit(
        reference=Reference(**{name: _number(value) for name, value in part["reference"].items()}),
        trend_log_s=np.array(part["trend_log_s"], dtype=np.float64),
        trend=np.array(part["trend"], dtype=np.float64),
        best_utilisation=_number(part["best_utilisation"]),
        trust_along_x=_number(part["trust_along_x"]),
        log_half_width=np.array(part["log_half_width"], dtype=np.float64),
        filling=_filling(label, part.get("filling")),  # schema 1 had none
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


def _filling(label: str, part: dict[str, Any] | None) -> Filling | None:
    if part is None:
        return None
    errors = {
        question: Errors(
            label=np.full(len(found["error"]), label),
            shape=np.array(found["shape"], dtype=np.int64),
            regime=np.array(found["regime"], dtype=np.int8),
            error=np.array(found["error"], dtype=np.float64),
        )
        for question, found in part["errors"].items()
    }
    alone = np.inf if part["alone"] is None else part["alone"]
    return Filling(trust=part["trust"], alone=alone, errors=errors)
