"""A label's constants as JSON in a fit's metadata, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from cluster_specs.files.shown import shown
from costmodel.fitted.held_out import QUESTIONS
from costmodel.fitted.knots import Derived, Errors, Filling, LabelFit
from costmodel.fitted.reference import Reference

# Errors of a label up to so many are kept whole, else so many of each question.
_KEPT_WHOLE: Final = 3000
_SAMPLED: Final = 200
_NO_ERRORS: Final[Mapping[str, Any]] = {"shape": [], "regime": [], "error": []}  # schema 3 knew three questions


def label_to_json(fit: LabelFit) -> dict[str, object]:
    """Everything of a label but its rows."""
    return {
        "reference": asdict(fit.reference),
        "trend_log_s": fit.trend_log_s.tolist(),
        "trend": fit.trend.tolist(),
        "best_utilisation": fit.best_utilisation,
        "trust_along_x": fit.trust_along_x,
        "log_half_width": fit.log_half_width.tolist(),
        "size_edges_s": fit.size_edges_s.tolist(),
        "lent_factor": fit.lent_factor,
        "lone_factor": fit.lone_factor.tolist(),
        "filling": None if fit.filling is None else _filling_json(fit.filling),
    }


def _filling_json(filling: Filling) -> dict[str, object]:
    """Keep an even sample of the errors of large labels: they are drawn and summed up, prices do not need them."""
    most = max((len(found.error) for found in filling.errors.values()), default=0)
    few = _SAMPLED if most > _KEPT_WHOLE else most
    kept = {
        question: found.take(np.arange(0, len(found.error), max(-(-len(found.error) // max(few, 1)), 1)))
        for question, found in filling.errors.items()
    }
    errors = {
        question: {
            "shape": found.shape.tolist(),
            "regime": found.regime.tolist(),
            "error": np.round(found.error, 5).tolist(),
        }
        for question, found in kept.items()
    }
    # JSON has no infinity.
    alone = filling.alone if np.isfinite(filling.alone) else None
    return {"trust": filling.trust, "alone": alone, "errors": errors}


def label_from_json(label: str, part: Mapping[str, Any]) -> LabelFit:
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
        lone_factor=np.array(part.get("lone_factor", [1.0]), dtype=np.float64),
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
            reference_s=np.ones(len(found["error"])),  # told the intervals when they were made; not kept
            is_lone=np.zeros(len(found["error"]), dtype=np.bool_),  # likewise
            error=np.array(found["error"], dtype=np.float64),
        )
        for question, found in ((name, part["errors"].get(name, _NO_ERRORS)) for name in QUESTIONS)
    }
    alone = np.inf if part["alone"] is None else part["alone"]
    return Filling(trust=part["trust"], alone=alone, errors=errors)
