"""How far a fit is to be trusted, in a sentence, rows by family and its worst points; all without the point itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from costmodel.compare.curves_to_draw import point_name
from costmodel.compare.held_out_prices import HeldOutPoints, from_curves_alone
from costmodel.compare.predictions import PricedRows
from costmodel.fit_file.contents import Artefact
from costmodel.fitted.held_out import relative_error
from costmodel.fitted.reference import REGIMES
from costmodel.ops.arrays import Array

# Errors are called small up to here, in every figure and summary.
SMALL_ERROR: Final = 0.1
_FEWEST: Final = 20


def family_rows(artefact: Artefact, points: Mapping[str, HeldOutPoints]) -> list[dict[str, Any]]:
    """Return one row per family, over all labels together, and one of all families where there are several.

    ``points`` counts what was measured, ``judged`` what has an answer without itself. Coverage is that of the report;
    where only some shapes of a family were chosen it is not known.
    """
    counts = {family: len(found.row) for family, found in points.items()}
    errors = {family: found.log_error[found.is_known] for family, found in points.items()}
    is_whole = {family: len(found.row) == found.num_measured for family, found in points.items()}

    def coverage(families: Sequence[str]) -> float | None:
        return _coverage(artefact, families) if all(is_whole[family] for family in families) else None

    return _rows(counts, errors, coverage)


def priced_family_rows(found: Sequence[PricedRows]) -> list[dict[str, Any]]:
    """Return such rows of measurements that a model priced; seen ones that cannot be held out are not judged."""
    judged = {priced.family: priced.judged() for priced in found}

    def coverage(families: Sequence[str]) -> float | None:
        inside = np.concatenate([judged[family].is_inside for family in families])
        return float(inside.mean()) if len(inside) else None

    errors = {family: priced.log_error for family, priced in judged.items()}
    return _rows({priced.family: len(priced.seen) for priced in found}, errors, coverage)


def _rows(
    counts: Mapping[str, int], errors: Mapping[str, Array], coverage: Callable[[Sequence[str]], float | None]
) -> list[dict[str, Any]]:
    rows = [
        {"family": family, "points": count, **_errors(errors[family]), "coverage_frac": coverage([family])}
        for family, count in counts.items()
    ]
    if len(rows) > 1:
        whole = _errors(np.concatenate(list(errors.values())))
        rows.append({"family": "all", "points": sum(counts.values()), **whole, "coverage_frac": coverage(list(counts))})
    return rows


def _errors(error: Array) -> dict[str, Any]:
    if not len(error):
        return {"judged": 0, **dict.fromkeys(("median_log", "p90_log", "within_10_percent_frac", "bias_log"))}
    size = np.abs(error)
    return {
        "judged": len(error),
        "median_log": float(np.median(size)),
        "p90_log": float(np.quantile(size, 0.9)),
        "within_10_percent_frac": float(np.mean(np.abs(np.expm1(error)) <= SMALL_ERROR)),
        "bias_log": float(error.mean()),
    }


def _coverage(artefact: Artefact, families: Sequence[str]) -> float | None:
    rows = [
        row
        for row in artefact.held_out
        if row.family in families and row.question == "point" and row.regime == "all" and not np.isnan(row.coverage)
    ]
    count = sum(row.points for row in rows)
    return sum(row.points * row.coverage for row in rows) / count if count else None


def verdict(rows: Sequence[Mapping[str, Any]], what: str = "Predicted without itself, a measured point") -> str:
    """Say in one or two sentences how far off prices are; ``rows`` are those by family."""
    judged = [row for row in rows if row["judged"]]
    if not judged:
        return "No point has measured neighbours on both sides: nothing says how far the prices are to be trusted."
    whole = judged[-1]
    text = (
        f"{what} is off by {_percent(whole['median_log'])} at the median and by "
        f"{_percent(whole['p90_log'])} at the 90th percentile ({whole['judged']:,} points)."
    )
    families = [row for row in judged if row["family"] != "all" and row["judged"] >= _FEWEST]
    if len(families) > 1:
        worst, best = (pick(families, key=lambda row: float(row["p90_log"])) for pick in (max, min))
        text += (
            f" At the 90th percentile {best['family']} is best ({_percent(best['p90_log'])}), {worst['family']} worst "
            f"({_percent(worst['p90_log'])})."
        )
    return text


def _percent(log_error: float) -> str:
    return f"{relative_error(log_error):.1%}"


def worst_points(points: Mapping[str, HeldOutPoints], count: int) -> list[dict[str, Any]]:
    """Return the ``count`` points per family that are predicted worst without themselves, worst first."""
    rows = []
    for family, found in points.items():
        known = found.take(found.is_known)
        for index in np.argsort(-np.abs(known.log_error), kind="stable")[:count].tolist():
            knots, shape, row = known.knots, int(known.shape[index]), int(known.row[index])
            rows.append(
                {
                    "family": family,
                    "label": knots.label[shape].text,
                    "region": REGIMES[int(known.regime[index])],
                    "predicted_s": float(known.predicted_s[index]),
                    "measured_s": float(known.measured_s[index]),
                    "ratio": float(np.exp(known.log_error[index])),
                    "point": point_name(knots, shape, float(knots.x[row]), float(knots.y[row])),
                }
            )
    return rows


def notes(points: Mapping[str, HeldOutPoints]) -> list[str]:
    """Say what has no answer, and what has one that is worse than the fit's."""
    found = []
    for family, own in points.items():
        silent = int(np.count_nonzero(~own.is_known))
        if silent:
            found.append(f"{family}: {silent:,} points have no measured neighbours on both sides and are not judged")
        if alone := from_curves_alone(own.knots):
            found.append(
                f"{family}: points of {', '.join(alone)} are predicted from their own curves alone; the fit, which "
                "learns from all shapes, is better"
            )
    return found
